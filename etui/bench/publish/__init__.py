"""The public form of runs: folders fit for a git repository, and a page that ranks them.

In the order of imports: ``command``, ``private`` and ``suites`` know a run's configuration;
``folder`` and ``readme`` write a public folder; ``read`` reads one that anybody may have written;
``ranking`` and ``board`` make the page from what was read.
"""
