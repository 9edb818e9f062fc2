"""The report: one page for a browser, and its figures for papers.

`write_report` makes the page of a fitted model; `figures` are functions that return matplotlib figures.
"""

from chreode.interpret.markers import markers_of
from chreode.report import figures
from chreode.report.components import component_by_level, components_graph
from chreode.report.maps import project_2d
from chreode.report.page import collect, render, write_report

__all__ = [
    "collect",
    "component_by_level",
    "components_graph",
    "figures",
    "markers_of",
    "project_2d",
    "render",
    "write_report",
]
