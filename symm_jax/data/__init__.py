"""Data sets: one tfds builder per data set, images decoded once into arrays, pairs of images and their augmentation.

The entry point is datasets.py.
"""
