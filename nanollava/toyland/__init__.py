"""Toyland: a small world that the project makes itself.

Scenes, their drawings, captions, a teacher that writes instruction data, a score, and the training
of the two starting points: a tiny CLIP and a tiny Vicuna. In reading order:

    scenes, pen, things, backgrounds, draw    what an image shows, and its pixels
    captions, teacher                         captions and boxes, and the facts read from them
    grammar, wordings, more_wordings          the templates of all questions, and their forms
    qa, questions, comparisons, dialogues     questions and conversations in all forms
    plain                                     the same in a few forms each
    data                                      the data set on disk
    pretrain, clip, vicuna                    toy-clip and toy-vicuna
    score                                     exact answers about held-out scenes
    natural, natural_wordings, overlap, judges, natural_score    questions as people type them
"""
