"""The comparison of the connectors: python -m nanollava.evals.connectors

rows.py        what is compared
data.py        training sets of several sizes, with questions about two images among them
runs.py        trains one row in both stages, and measures it
table.py       the results as Markdown
figures.py     masks, gates, and where queries look, drawn by the code
"""
