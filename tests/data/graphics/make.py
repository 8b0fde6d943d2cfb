"""Draws the twelve pictures beside this file: what people store that is no photograph.

    python tests/data/graphics/make.py

Fonts and plots depend on the versions of matplotlib and Pillow, so the pictures are committed as they were drawn once.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFilter, ImageFont

HERE = Path(__file__).resolve().parent
SAMPLES = HERE.parents[2] / "samples"
SIZE = (768, 512)
TEXT = (HERE.parents[2] / "LICENSE").read_text().split()


def font(size: int, family: str = "sans-serif", weight: str = "normal") -> ImageFont.FreeTypeFont:
    found = font_manager.findfont(font_manager.FontProperties(family=family, weight=weight))
    return ImageFont.truetype(found, size)


def page(color: str | tuple[int, int, int] = "white") -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("RGB", SIZE, color)
    return image, ImageDraw.Draw(image)


def lines(start: int, count: int, words: int) -> list[str]:
    rows = []
    for i in range(count):
        first = (start + i * words) % (len(TEXT) - words)
        rows.append(" ".join(TEXT[first : first + words]))
    return rows


def chart(draw) -> Image.Image:
    figure = plt.figure(figsize=(7.68, 5.12), dpi=100)
    draw(figure)
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()
    plt.close(figure)
    return Image.fromarray(pixels)


def line_chart() -> Image.Image:
    def draw(figure):
        axes = figure.add_subplot()
        x = np.linspace(0.05, 2, 40)
        for i, gain in enumerate((27, 28.2, 29.5, 30.1)):
            axes.plot(x, gain + 6 * np.log2(1 + x * (1 + i / 8)), marker="os^D"[i], label=f"codec {i + 1}")
        axes.set(xlabel="bits per pixel", ylabel="PSNR, dB", title="Rate and distortion")
        axes.grid(visible=True)
        axes.legend()

    return chart(draw)


def bar_chart() -> Image.Image:
    def draw(figure):
        axes = figure.add_subplot()
        rng = np.random.default_rng(1)
        for i in range(3):
            axes.bar(np.arange(8) + 0.27 * i, rng.uniform(2, 10, 8), 0.25, label=f"run {i}")
        axes.set(ylabel="milliseconds", title="Latency by network")
        axes.legend()

    return chart(draw)


def heat_map() -> Image.Image:
    def draw(figure):
        axes = figure.add_subplot()
        y, x = np.mgrid[-3:3:160j, -4:4:220j]
        values = np.sin(x * y) * np.exp(-(x**2 + y**2) / 9)
        figure.colorbar(axes.imshow(values, cmap="viridis"), ax=axes)
        axes.set_title("Response")

    return chart(draw)


def document() -> Image.Image:
    image, draw = page()
    draw.text((60, 36), "Terms of use", font=font(26, "serif", "bold"), fill="black")
    for i, row in enumerate(lines(0, 22, 11)):
        draw.text((60, 84 + 18 * i), row, font=font(13, "serif"), fill=(20, 20, 20))
    return image


def terminal() -> Image.Image:
    image, draw = page((24, 26, 31))
    colors = ((152, 195, 121), (97, 175, 239), (220, 223, 228), (229, 192, 123))
    for i, row in enumerate(lines(200, 27, 10)):
        draw.text((12, 10 + 18 * i), f"$ {row}"[:90], font=font(13, "monospace"), fill=colors[i % 4])
    return image


def dialog() -> Image.Image:
    image, draw = page((58, 110, 165))
    draw.rounded_rectangle((120, 60, 650, 440), 10, fill=(240, 240, 240), outline=(90, 90, 90))
    draw.rounded_rectangle((120, 60, 650, 96), 10, fill=(210, 214, 222))
    draw.text((140, 68), "Preferences", font=font(16), fill=(30, 30, 30))
    for i, row in enumerate(lines(90, 7, 5)):
        y = 118 + 38 * i
        draw.rectangle((150, y, 166, y + 16), fill="white", outline=(80, 80, 80))
        if i % 2:
            draw.line((153, y + 8, 158, y + 13, 164, y + 3), fill=(0, 120, 215), width=2)
        draw.text((180, y - 1), row, font=font(14), fill=(30, 30, 30))
    for x, name in ((430, "Cancel"), (540, "Save")):
        draw.rounded_rectangle((x, 396, x + 92, 424), 5, fill=(0, 120, 215) if name == "Save" else "white")
        draw.text((x + 22, 401), name, font=font(14), fill="white" if name == "Save" else "black")
    return image


def web_page() -> Image.Image:
    image, draw = page()
    draw.rectangle((0, 0, 768, 54), fill=(32, 58, 92))
    draw.text((24, 14), "The daily picture", font=font(22, weight="bold"), fill="white")
    photo = Image.open(SAMPLES / "chelsea.png").convert("RGB").resize((300, 200), Image.Resampling.LANCZOS)
    image.paste(photo, (24, 84))
    for i, row in enumerate(lines(40, 10, 6)):
        draw.text((344, 84 + 20 * i), row, font=font(14), fill=(40, 40, 40))
    for i, row in enumerate(lines(300, 9, 12)):
        draw.text((24, 310 + 20 * i), row, font=font(13), fill=(60, 60, 60))
    return image


def cartoon() -> Image.Image:
    big = Image.new("RGB", (SIZE[0] * 3, SIZE[1] * 3), (135, 206, 235))
    draw = ImageDraw.Draw(big)
    draw.polygon(
        [(0, 1200), (500, 700), (1000, 1150), (1500, 640), (2304, 1250), (2304, 1536), (0, 1536)],
        (86, 125, 70),
    )
    draw.ellipse((1800, 120, 2100, 420), (255, 214, 64), (30, 30, 30), 12)
    draw.rectangle((300, 900, 900, 1400), (205, 92, 60), (30, 30, 30), 12)
    draw.polygon([(240, 900), (600, 580), (960, 900)], (130, 50, 40), (30, 30, 30))
    for x in (380, 700):
        draw.rectangle((x, 1000, x + 130, 1150), (190, 225, 240), (30, 30, 30), 10)
    for x in range(1200, 2200, 240):
        draw.rectangle((x + 70, 1150, x + 110, 1420), (110, 70, 40), (30, 30, 30), 8)
        draw.ellipse((x, 900, x + 190, 1180), (50, 140, 60), (30, 30, 30), 10)
    return big.resize(SIZE, Image.Resampling.LANCZOS)


def plan() -> Image.Image:
    big = Image.new("RGB", (SIZE[0] * 3, SIZE[1] * 3), (242, 239, 233))
    draw = ImageDraw.Draw(big)
    rng = np.random.default_rng(4)
    draw.polygon([(0, 400), (900, 520), (2304, 300), (2304, 520), (900, 760), (0, 620)], (170, 211, 223))
    for _ in range(26):
        x, y = rng.integers(0, 2200), rng.integers(760, 1500)
        draw.rectangle(
            (x, y, x + rng.integers(50, 160), y + rng.integers(50, 120)), (217, 208, 201), (190, 180, 170), 3
        )
    for _ in range(9):
        ends = [tuple(int(v) for v in rng.integers((0, 0), (2304, 1536))) for _ in range(3)]
        draw.line(ends, (255, 255, 255), 34, "curve")
        draw.line(ends, (250, 200, 120), 22, "curve")
    for i, row in enumerate(lines(20, 8, 2)):
        draw.text((120 + 260 * i, 300 + 140 * (i % 5)), row, font=font(44), fill=(70, 70, 90))
    return big.resize(SIZE, Image.Resampling.LANCZOS)


def gradients() -> Image.Image:
    y, x = np.mgrid[0:512, 0:768]
    sky = np.stack([60 + 120 * y / 512, 90 + 90 * y / 512, 190 - 60 * x / 768], axis=2)
    image = Image.fromarray(np.clip(np.rint(sky), 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    draw.rounded_rectangle((180, 150, 590, 350), 24, fill=(250, 250, 252))
    draw.text((220, 190), "42 %", font=font(72, weight="bold"), fill=(40, 60, 120))
    draw.text((222, 290), "of the photographs are done", font=font(20), fill=(90, 90, 110))
    return image


def scanned(image: Image.Image, seed: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    turned = image.rotate(0.6, Image.Resampling.BICUBIC, fillcolor="white").filter(
        ImageFilter.GaussianBlur(0.7)
    )
    y, x = np.mgrid[0:512, 0:768]
    paper = 236 + 8 * np.sin(x / 300) + 6 * np.cos(y / 190)
    grain = rng.normal(0, 1.6, (512, 768, 1)) + rng.normal(0, 0.7, (512, 768, 3))
    tint = np.array([1.0, 0.985, 0.94])
    pixels = np.asarray(turned, np.float64) / 255 * paper[..., None] * tint + grain
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


def line_art() -> Image.Image:
    big = Image.new("RGB", (SIZE[0] * 3, SIZE[1] * 3), "white")
    draw = ImageDraw.Draw(big)
    rng = np.random.default_rng(7)
    for i in range(36):
        t = np.linspace(0, 2 * np.pi, 90)
        r = 80 + 16 * i + 30 * np.sin(t * (3 + i % 4) + rng.uniform(0, 6))
        points = list(zip(1150 + 1.4 * r * np.cos(t), 768 + r * np.sin(t), strict=True))
        draw.line([(float(a), float(b)) for a, b in points], (20, 20, 30), 5)
    return big.resize(SIZE, Image.Resampling.LANCZOS)


PICTURES = {
    "chart-lines": line_chart,
    "chart-bars": bar_chart,
    "chart-heat": heat_map,
    "screen-document": document,
    "screen-terminal": terminal,
    "screen-dialog": dialog,
    "screen-web-page": web_page,
    "drawing-cartoon": cartoon,
    "drawing-map": plan,
    "drawing-gradients": gradients,
    "scan-document": lambda: scanned(document(), 1),
    "scan-line-art": lambda: scanned(line_art(), 2),
}

if __name__ == "__main__":
    for name, make in PICTURES.items():
        make().save(HERE / f"{name}.png", optimize=True)
