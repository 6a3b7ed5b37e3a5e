"""The kit's commands: `python -m glowlib COMMAND`, each a module's own `main`, imported when it is called."""

import sys
from importlib import import_module

# command -> (module, arguments that it always has, what it does)
COMMANDS = {
    "denoise": ("evaluation.denoise_folder", [], "restore a folder of pictures"),
    "reproduce": ("experiments.reproduce", [], "every table and figure of a profile, with a verdict"),
    "verify": ("experiments.reproduce", ["--verify"], "judge the run that is there, compute nothing"),
    "benchmark": ("experiments.score_profile", [], "score a profile's methods on its test sets"),
    "train": ("training.__main__", [], "train a model of a profile, as python -m glowlib.training"),
    "sweep": ("training.sweep", [], "train a profile's models in time slices"),
    "study": ("experiments.study", [], "train networks that differ in one thing, with several seeds, and compare them"),
    "engines": ("integrations.engines", [], "seconds of the networks in the kit and in other runtimes"),
    "bench": ("experiments.speed", [], "seconds and memory of the networks on this machine"),
    "pairs": ("data.paper_pairs", [], "prepare training pairs as the paper did"),
    "cards": ("experiments.model_cards", [], "write the model cards, and the results in README and docs"),
    "context-range": ("experiments.context_range", [], "the shipped models on whole pictures and on tiles"),
    "interventions": ("experiments.interventions", [], "what the shipped models lose without parts of their context"),
    "export": ("integrations.export", [], "write a network's files for other programs: ONNX, torch.export"),
    "tune-classical": ("evaluation.classical", [], "tune the classical methods' strengths"),
}


def main(argv=None):
    """Run the command that argv, by default sys.argv[1:], begins with; the rest of it is the command's own."""
    name, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("-h", "--help"):
        print("usage: python -m glowlib COMMAND [--help] ...\n")
        print("\n".join(f"  {command:<16}{text}" for command, (_, _, text) in COMMANDS.items()))
        return
    if name not in COMMANDS:
        print(f"error: unknown command {name!r}; known are: {', '.join(COMMANDS)}", file=sys.stderr)
        sys.exit(2)
    module, given, _ = COMMANDS[name]
    import_module(f".{module}", __package__).main([*given, *rest])


if __name__ == "__main__":
    main()
