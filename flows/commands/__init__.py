"""The commands of `elborank`: one file for each thing that one does; `flows.cli` puts them together."""
