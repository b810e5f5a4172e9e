"""The report of a study: one document, shown in the terminal, as Markdown, HTML, JSON and CSV.

Every number is computed from the records in the store when the report is made.

    content     the study, its attribution and its CORE scores, read once
    document    the document, from which every format is rendered
    charts      its figures, with the numbers of panels and curves
    phrases     numbers and sentences
    export      report.csv
    files       writes the report in every format
    plan        the document of a dry run
    progress    what is shown while a study runs
"""
