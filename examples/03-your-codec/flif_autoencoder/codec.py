"""The codec, as compressing and decompressing see it: no torch."""

from oslic.runtime import flif
from oslic.runtime.errors import StreamError
from oslic.runtime.kinds import LearnedCodec


class FlifAutoencoder(LearnedCodec):
    """`encode` makes a small picture of 4 channels, FLIF codes it, `decode` makes a picture of it again."""

    kind = "flif_autoencoder"
    graphs = ("encode", "decode")
    decoding_graphs = ("decode",)
    sections = {"latent": 1}

    def __init__(self, bundle):
        self.scale = bundle.manifest.graphs["decode"].scales["latent"]

    def encode(self, image, run):
        latent = run("encode", image=image[None])[0]  # uint8 (H/8, W/8, 4)
        return {"latent": flif.encode(latent)}

    def decode(self, sections, run):
        height, width = run.height // self.scale, run.width // self.scale
        latent = flif.decode(sections["latent"], max_pixels=height * width)
        if latent.shape != (height, width, 4) or latent.dtype != "uint8":
            raise StreamError(f"the latent is {latent.dtype} {latent.shape}: damaged stream")
        return run("decode", latent=latent[None])[0]
