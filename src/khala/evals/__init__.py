"""What the models are worth, measured on held-out songs with peers in the same run."""
