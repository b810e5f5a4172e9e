"""Did a change make anything worse? A gate, from two names to a verdict a metric.

The path of one gate; a file imports only from files above it:

    result       what a gate says, as data
    judge        what replicates and launches say at one look
    planning     a gate before it spends
    history      gates that were carried out, and what they teach the ledger
    sides        what a gate compares, described and found comparable
    launcher     makes its launches, in the form that the sides take
    rounds       how much a gate buys, and what it says of it
    whole        the verdict of the whole, in the light of earlier gates
    gate         plans, buys, concludes
    summary      a gate in the terminal and on a pull request
    findings     a gate's JSON as lines of text, for whoever reads it later
    junit        the same as JUnit XML
    annotations  the same as the annotations of a runner
"""
