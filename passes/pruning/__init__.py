"""canonical → pruned: narrower layers, fewer heads.

find/    which features belong together: the groups of a program
score/   how much each unit of a group matters
choose/  which units go, under a budget
cut/     the program without them
prune    the pass: find, score, choose, cut
plan     what goes, as data that is saved and shown
replay   a plan on another checkpoint of the same model
"""
