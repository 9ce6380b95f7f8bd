"""The same images and weights in another package, and the convention that explains why its number differs from ours.

A package runs as its documentation calls it, with its defaults. Where its number is not ours, ours is computed under
each convention in which the two are known to differ: the one that gives its number is the explanation.
Packages are imported when they are run.
"""
