"""A page that shows what a run did: python -m flaxcifar.report --workdir DIR"""

from flaxcifar.report.command import conclude_report, main, parser, write_report

__all__ = ["conclude_report", "main", "parser", "write_report"]
