"""The program without the features that go.

survivors   what stays of each node's result
sizes       sizes written in the graph become those of what stays
compensate  what stays makes up for what goes
shrink      weights are sliced, sizes replaced
names       a changed weight goes by the name of the one that it was made from
apply       all of it, in order
"""
