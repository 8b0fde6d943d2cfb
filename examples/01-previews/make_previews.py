"""Previews of photographs from the first kilobytes of their files, as a page that shows them before the photographs.

python make_previews.py OUTPUT PHOTO...
"""

import sys
from pathlib import Path

from oslic.runtime import Codec
from PIL import Image

output, *photographs = map(Path, sys.argv[1:] or sys.exit(__doc__))
output.mkdir(parents=True, exist_ok=True)
figures = []
with Codec.open("lite-preview") as codec:
    for path in photographs:
        stream = codec.compress(path, 0)  # the layers alone
        preview = Image.fromarray(codec.decompress(stream))
        preview.save(output / f"{path.stem}-preview.webp", quality=90)
        Image.open(path).convert("RGB").save(output / f"{path.stem}.webp", quality=90)
        labels = ", ".join(n for n, share in codec.decode_labels(stream).shares().items() if share > 0.1)
        figures.append(
            f'<figure style="background-image: url({path.stem}-preview.webp)">'
            f'<img loading="lazy" width="{preview.width}" height="{preview.height}" alt="{labels}" '
            f'data-src="{path.stem}.webp"><figcaption>{len(stream):,} bytes: {labels}</figcaption></figure>'
        )
page = (Path(__file__).parent / "page.html").read_text()
(output / "index.html").write_text(page.replace("<!-- figures -->", "\n".join(figures)))
print(f"open {output / 'index.html'}")
