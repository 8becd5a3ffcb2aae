"""What tells the energy of an inference."""
