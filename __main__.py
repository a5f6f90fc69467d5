"""What Pulumi runs at the top of this checkout: the program of Pulumi.yaml, or the plugin of PulumiPlugin.yaml.

A plugin gets the engine's address as an argument; a program gets no argument.
"""

import sys

if len(sys.argv) > 1:
    from hostnet.rpc.__main__ import main

    main()
else:
    import program  # noqa: F401 - it declares the resources
