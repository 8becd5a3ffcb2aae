"""Which network to pick, and why: studies, search, verification, selection, the page and the command line.

The modules are imported one by one where they are needed; the public names are those of `hwnas`.
"""
