"""What Pulumi runs at the top of this checkout: the program of Pulumi.yaml, or the plugin of PulumiPlugin.yaml.

A plugin gets the engine's address as an argument; a program gets no argument.
"""

import sys
from pathlib import Path

if len(sys.argv) > 1:
    # The plugin's virtual environment has what requirements.txt names, and not hostnet.
    sys.path.insert(0, str(Path(__file__).resolve().parent / "provider"))
    from hostnet.rpc.__main__ import main

    main()
else:
    import program  # noqa: F401 - it declares the resources
