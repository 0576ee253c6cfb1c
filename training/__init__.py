"""What teaches: data, bridge training and evaluation."""
