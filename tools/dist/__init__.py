"""What is published: `make dist` builds it into dist/. On one machine the same checkout gives the same bytes."""
