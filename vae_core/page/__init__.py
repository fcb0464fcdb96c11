"""The report as one HTML file: self-contained, without a request, for a laptop, a phone and paper.

It is drawn from the report's folder alone (Parquet, manifest, model card), so that it can be drawn again.
"""

from vae_core.page.build import PAGE, build, model_page

__all__ = ["PAGE", "build", "model_page"]
