"""What nano is scored on: GenEval-like prompts, POPE-like questions, and each link of the chain."""
