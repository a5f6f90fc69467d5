"""What is published: `make dist` builds it into dist/. The same checkout gives the same bytes."""
