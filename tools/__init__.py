"""What a checkout needs around the provider: set-up, the test guest, generators. No part of what users install."""
