"""The outputs of the notebooks as they are committed: the same bytes whenever `make notebooks` runs on one machine."""

from nbconvert.preprocessors import Preprocessor

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"


class WithoutWidgetViews(Preprocessor):
    """Leave out the views of widgets: their random numbers are of a kernel that has ended. Their text stays."""

    def preprocess_cell(self, cell, resources, index):
        """The cell with its outputs changed, as nbconvert calls it after the execution."""
        for output in cell.get("outputs", ()):
            output.get("data", {}).pop(WIDGET_VIEW, None)
        return cell, resources
