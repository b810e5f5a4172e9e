"""The workflows with which a repository gates its pull requests on a GPU runner.

The path of one workflow; a file imports only from files above it:

    file       a workflow file that can be changed without losing a comment
    merge      a newer template into a file that its owner changed
    rules      what a workflow may not do
    audit      what the schema and zizmor say of workflows
    workflows  what the commands do
    cli        the words of the commands
"""
