"""What the model that answered takes, and what was predicted: the agent is all there is."""
