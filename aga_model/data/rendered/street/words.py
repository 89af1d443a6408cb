"""The words of captions of photographic-looking street people: more synonyms, hypernyms and free phrasing.

As in `attributes`, every table maps an attribute's value to the phrases that may stand for it. Two values of one
attribute never share a phrase, and a phrase that `attributes` has too means the same value there. The first phrase of
a value is its plainest, and captions use it most. Some of the words of `attributes` ("slacks", "rucksack", "jumper")
are left out on purpose: they are what a model trained on these captions still has to learn from the others.
"""

from ..attributes import Phrases

COLOURS: Phrases = {
    "black": ("black",),
    "white": ("white",),
    "gray": ("gray", "grey"),
    "dark gray": ("dark gray", "dark grey", "charcoal", "charcoal grey"),
    "light gray": ("light gray", "light grey", "pale grey"),
    "red": ("red",),
    "maroon": ("maroon", "burgundy", "dark red", "wine red"),
    "blue": ("blue",),
    "light blue": ("light blue", "pale blue", "sky blue", "baby blue"),
    "navy": ("navy", "dark blue", "navy blue", "midnight blue"),
    "green": ("green",),
    "dark green": ("dark green", "olive", "olive green", "forest green"),
    "yellow": ("yellow", "mustard"),
    "orange": ("orange",),
    "purple": ("purple", "violet"),
    "pink": ("pink",),
    "brown": ("brown", "chocolate brown"),
    "beige": ("beige", "tan", "cream", "khaki", "sand-coloured", "camel"),
    "turquoise": ("turquoise", "teal", "aqua"),
}
GENDERS: Phrases = {
    "man": ("man", "male", "guy", "gentleman"),
    "woman": ("woman", "lady", "female", "girl"),
}
BUILDS: Phrases = {
    "slim": ("slim", "thin", "slender", "skinny"),
    "average": (),
    "stout": ("stout", "stocky", "heavily built", "plump"),
}
BUILD_NOUNS: Phrases = {  # as in "of medium build"
    "slim": ("slim", "slight"),
    "average": ("average", "medium"),
    "stout": ("heavy", "large"),
}
HAIR_STYLES: Phrases = {
    "short": ("short", "cropped", "short cropped"),
    "long": ("long", "flowing"),
    "ponytail": ("ponytail", "pony tail"),
    "bun": ("bun",),
    "bald": ("bald", "shaved"),
}
HAIR_STYLE_ADJECTIVES: Phrases = {  # of the person
    "short": ("short-haired",),
    "long": ("long-haired",),
    "ponytail": (),
    "bun": (),
    "bald": ("bald", "bald-headed"),
}
HAIR_COLOURS: Phrases = {
    "black": ("black", "jet-black"),
    "brown": ("brown", "chestnut"),
    "blond": ("blonde", "blond", "fair", "golden"),
    "gray": ("gray", "grey", "silver"),
    "red": ("red", "ginger"),
}
HAIR_COLOUR_ADJECTIVES: Phrases = {  # of the person
    "black": ("black-haired",),
    "brown": ("brown-haired", "brunette"),
    "blond": ("blonde", "blond", "blond-haired", "fair-haired"),
    "gray": ("gray-haired", "grey-haired", "silver-haired"),
    "red": ("red-haired", "ginger", "redheaded"),
}
UPPER_TYPES: Phrases = {
    "t-shirt": ("t-shirt", "tee", "tshirt"),
    "shirt": ("shirt", "button-down shirt", "collared shirt"),
    "sweater": ("sweater", "pullover", "sweatshirt", "knitted sweater"),
    "hoodie": ("hoodie", "hooded top", "hoody", "hooded sweater"),
    "vest": ("tank top", "vest", "sleeveless top"),
    "jacket": ("jacket", "casual jacket", "windbreaker", "outdoor jacket"),
    "coat": ("coat", "long coat", "overcoat", "trench coat", "knee-length coat", "winter coat"),
    "blouse": ("blouse", "loose blouse"),
    "dress": ("dress", "frock"),
}
PATTERNS: Phrases = {
    "plain": ("plain",),
    "striped": ("striped", "stripy"),
    "plaid": ("plaid", "checked", "checkered", "tartan"),
    "logo": ("graphic", "printed"),
    "blocks": ("two-tone", "colour-blocked", "color-block"),
}
PATTERN_NOUNS: Phrases = {
    "striped": ("stripes",),
    "plaid": ("checks", "squares"),
    "logo": ("logo", "print", "graphic", "design"),
    "blocks": ("shoulders",),
}
SLEEVES: Phrases = {
    "long": ("long-sleeved", "long-sleeve"),
    "short": ("short-sleeved", "short-sleeve"),
    "none": ("sleeveless",),
}
LOWER_TYPES: Phrases = {
    "pants": ("pants", "trousers", "long pants", "chinos"),
    "jeans": ("jeans", "denim jeans", "denims"),
    "shorts": ("shorts", "short pants"),
    "leggings": ("leggings", "stretch pants"),
    "skirt": ("skirt",),
}
SHOE_TYPES: Phrases = {
    "sneakers": ("sneakers", "trainers", "running shoes", "tennis shoes"),
    "leather shoes": ("leather shoes", "formal shoes", "smart shoes"),
    "boots": ("boots", "leather boots"),
    "sandals": ("sandals", "strappy sandals"),
}
BAG_TYPES: Phrases = {
    "backpack": ("backpack", "knapsack", "daypack"),
    "handbag": ("handbag", "purse"),
    "shoulder bag": ("shoulder bag", "messenger bag", "satchel", "sling bag"),
    "suitcase": ("suitcase", "wheeled suitcase", "trolley case", "travel case"),
    "shopping bag": ("shopping bag", "plastic bag", "carrier bag", "grocery bag"),
}
HAT_TYPES: Phrases = {
    "cap": ("cap", "baseball cap", "peaked cap", "ball cap"),
    "beanie": ("beanie", "woolly hat", "knitted hat", "winter hat"),
    "sun hat": ("sun hat", "sunhat", "brimmed hat", "floppy hat"),
}
NOUNS: Phrases = {
    "hair": ("hair",),
    "glasses": ("glasses", "spectacles"),
    "umbrella": ("umbrella",),
}

# Words that tell less than a value does.
SHADES: Phrases = {
    "dark": ("dark", "dark-coloured", "dark-colored"),
    "light": ("light-coloured", "light", "light-colored", "pale"),
    "bright": ("bright", "brightly coloured", "brightly colored"),
}
SHADE_OF = {
    "black": "dark",
    "navy": "dark",
    "dark gray": "dark",
    "brown": "dark",
    "maroon": "dark",
    "dark green": "dark",
    "white": "light",
    "light gray": "light",
    "beige": "light",
    "light blue": "light",
    "red": "bright",
    "yellow": "bright",
    "orange": "bright",
    "turquoise": "bright",
}
COLOURFUL = ("colourful", "colorful", "multicoloured")
VIVID_COLOURS = ("red", "blue", "green", "yellow", "orange", "purple", "pink", "turquoise")
DARK_HAIR_COLOURS = ("black", "brown")
DARK_HAIR_WORD = "dark"
DARK_HAIR_ADJECTIVE = "dark-haired"
GENERIC_UPPER = "top"  # any garment of the trunk but outerwear and dresses
GENERIC_LOWER = "bottoms"
GENERIC_SHOES = "shoes"
GENERIC_BAG = "bag"
GENERIC_HAT = "hat"
GENERIC_CLOTHES = ("clothes", "clothing")
INNER_GARMENTS = ("shirt", "top")
OPEN_WORD = "open"
SLEEVE_NOUN = "sleeves"

NEUTRAL_NOUNS = ("person", "someone", "pedestrian", "individual", "passer-by", "figure")

# What a garment of this type and colour may be said to be made of; no colours: any.
MATERIALS: dict[str, tuple[tuple[str, tuple[str, ...]], ...]] = {
    "t-shirt": (("cotton", ()),),
    "shirt": (("cotton", ()), ("denim", ("blue", "light blue", "navy"))),
    "sweater": (("wool", ()), ("knit", ())),
    "jacket": (
        ("leather", ("black", "brown")),
        ("denim", ("blue", "light blue", "navy")),
        ("padded", ()),
        ("puffer", ()),
    ),
    "coat": (("wool", ()), ("woollen", ())),
    "pants": (("cotton", ()),),
    "handbag": (("leather", ("black", "brown", "beige", "maroon", "red", "white")),),
    "shoulder bag": (("leather", ("black", "brown", "beige")), ("canvas", ())),
}

TABLES: tuple[Phrases, ...] = (
    COLOURS,
    GENDERS,
    BUILDS,
    BUILD_NOUNS,
    HAIR_STYLES,
    HAIR_STYLE_ADJECTIVES,
    HAIR_COLOURS,
    HAIR_COLOUR_ADJECTIVES,
    UPPER_TYPES,
    PATTERNS,
    PATTERN_NOUNS,
    SLEEVES,
    LOWER_TYPES,
    SHOE_TYPES,
    BAG_TYPES,
    HAT_TYPES,
    NOUNS,
    SHADES,
)
OTHER_WORDS: tuple[str, ...] = (
    *COLOURFUL,
    DARK_HAIR_WORD,
    DARK_HAIR_ADJECTIVE,
    GENERIC_UPPER,
    GENERIC_LOWER,
    GENERIC_SHOES,
    GENERIC_BAG,
    GENERIC_HAT,
    *GENERIC_CLOTHES,
    *INNER_GARMENTS,
    OPEN_WORD,
    SLEEVE_NOUN,
    *dict.fromkeys(material for options in MATERIALS.values() for material, _ in options),
)
PHRASES: dict[str, Phrases] = {
    "colour": COLOURS,
    "hair_colour": HAIR_COLOURS,
    "gender": GENDERS,
    "build": BUILDS,
    "hair_style": HAIR_STYLES,
    "upper_type": UPPER_TYPES,
    "upper_pattern": PATTERNS,
    "sleeves": SLEEVES,
    "lower_type": LOWER_TYPES,
    "shoes_type": SHOE_TYPES,
    "bag_type": BAG_TYPES,
    "hat_type": HAT_TYPES,
}
