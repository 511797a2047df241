"""Adds the predicted and the measured memory of the answering model to each answer."""
