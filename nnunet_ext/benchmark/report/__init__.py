"""The report of a benchmark: tables, figures and one page from a work folder, and bundles that rebuild them."""

from nnunet_ext.benchmark.report.bundle import verify_bundle, write_bundle
from nnunet_ext.benchmark.report.page import write_report

__all__ = ["verify_bundle", "write_bundle", "write_report"]
