"""ASDA (arXiv 2112.06161) on digits in another domain: what is each of its parts worth?

cells     ASDA, each of its parts switched off, four agents with domains of their own; what is
          expected of each, written before its runs
play      one training and its accuracy on target images
command   python -m paper_checks asda: every training is stored as it ends
page      docs/asda.md, made of the stored rows
"""
