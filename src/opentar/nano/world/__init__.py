"""The nano world: scenes, drawings, captions, questions, and which combinations are held out."""
