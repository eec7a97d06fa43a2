"""Scenes to English, all in one place: captions, questions and stories. Taught in notebook 01.

Pure functions of a `random.Random`, written in `captions.py`, `questions.py`, `changes.py` and `stories.py` over
`words.py`.
"""

from minidream.world.captions import PHRASINGS, caption, understand
from minidream.world.questions import QUESTION_TYPES, Question, ask, existence, few_shot, questions
from minidream.world.stories import KINDS, Story, edit, facts_story, made_up_name, story
from minidream.world.words import NAMES

__all__ = [
    "KINDS",
    "NAMES",
    "PHRASINGS",
    "QUESTION_TYPES",
    "Question",
    "Story",
    "ask",
    "caption",
    "edit",
    "existence",
    "facts_story",
    "few_shot",
    "made_up_name",
    "questions",
    "story",
    "understand",
]
