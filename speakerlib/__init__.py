"""Few-shot speaker identification: who is speaking, among these people, given a few seconds of each?"""

__version__ = "0.1.0"
