"""Print an answer while the model writes it, and stop it early.

    python examples/stream.py demo-output/bundle export/demo/scene.png "caption en" 30

The last argument is the time limit in seconds. Ctrl-C also ends the answer; both keep the text so far.
"""

import sys
from threading import Timer

from paligemma_onnx.runtime import Cancellation, PaliGemma


def main(bundle: str, image: str, prompt: str, seconds: str = "30") -> None:
    """Stream the answer to a prompt."""
    model = PaliGemma.load(bundle)
    cancellation = Cancellation()  # may be triggered by any thread
    timer = Timer(float(seconds), cancellation.cancel)
    timer.start()
    stream = model.stream(image, prompt, cancel=cancellation)
    try:
        for piece in stream:  # complete characters: a character of several tokens arrives at once
            print(piece, end="", flush=True)
    except KeyboardInterrupt:
        pass
    finally:
        timer.cancel()
    result, timings = stream.result, stream.result.timings
    print(
        f"\n{len(result.token_ids)} tokens, {result.finish_reason}; the first after "
        f"{timings.time_to_first_token_s:.2f} s, then {timings.tokens_per_second:.0f} per second"
    )


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
