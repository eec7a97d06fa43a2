"""A small world with ground truth: scenes, drawn as 64 x 64 pictures, told in English, and read back exactly.

`scene` holds the facts, `draw` turns them into pixels and `read` pixels into facts again; `tell` (over `captions`,
`questions`, `stories`, `prompts` and `words`) turns them into English, and `corpora` all of it into documents to learn
from. So whether a picture matches its text has a true answer, with no judge model. Taught in notebook 01.
"""
