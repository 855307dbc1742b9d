"""Repositories for the Hub: built from run folders, pushed, and proven by loading them as a stranger would."""
