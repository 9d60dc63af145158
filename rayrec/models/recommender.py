"""CONTRACT ONLY, being written: class Ranker with these methods (see the helper prompt)."""
