"""Data sets: a tfds builder each, decoded once into arrays; pairs and their augmentation.

datasets.py is the way in.
"""
