"""Toyland: a small world that the project makes itself.

Scenes, their drawings, captions, a teacher that writes instruction data, a score, and the training
of the two starting points: a tiny CLIP and a tiny Vicuna.
"""
