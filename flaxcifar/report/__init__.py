"""A page that shows what a run did: python -m flaxcifar.report --workdir DIR"""

from flaxcifar.report.command import write_report

__all__ = ["write_report"]
