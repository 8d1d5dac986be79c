"""How people type questions about an image: the wordings of the held-out test set.

These sentences are written by hand and independent of the training data: nothing that trains a
model may import this module. Each list belongs to one form of question. The names in braces are
filled in by `natural.py`.
"""

DESCRIBE = (
    "Describe this image.",
    "describe the picture",
    "Can you describe this photo for me?",
    "What's in this picture?",
    "what is in the image",
    "What do you see?",
    "what can you see here?",
    "Tell me what you see.",
    "Tell me about this picture",
    "What does the image show?",
    "what's shown in this photo?",
    "What's going on here?",
    "What is happening in this scene?",
    "Please describe everything you can see in this image.",
    "Give me a description of the picture.",
    "I can't see the picture, what's in it?",
    "Could you tell me what's in the photo, please?",
    "Walk me through this image.",
    "How would you describe this scene to someone who can't see it?",
    "explain this image",
    "What am I looking at?",
    "So, what have we got here?",
    "Write a detailed description of the image.",
    "what's this a picture of?",
    "Describe the scene in detail.",
    "Hey, what is this?",
    "What all is in this pic?",
    "Say what you see in the photo.",
    "Would you mind describing this image?",
    "caption this image with all the details please",
)

COLOR = (
    "What color is the {kind}?",
    "What colour is the {kind}?",
    "what's the color of the {kind}",
    "What is the colour of the {kind}?",
    "Which color does the {kind} have?",
    "Tell me the color of the {kind}.",
    "Can you tell me what color the {kind} is?",
    "The {kind} is what color?",
    "{kind} color?",
    "What colour would you say the {kind} is?",
    "Do you know what color the {kind} is?",
    "color of the {kind} please",
    "In the picture, what color is the {kind}?",
    "I see {a_kind}, but what colour is it?",
    "There's {a_kind} in this image. What color is it?",
    "How is the {kind} colored?",
    "What color is that {kind}?",
    "Name the color of the {kind}",
    "What's the {kind}'s color?",
    "hey what colour's the {kind}",
    "What color is the {kind} in this photo?",
    "Please tell me what colour the {kind} is.",
    "The color of the {kind} is?",
    "could you say which color the {kind} is",
    "I'd like to know the color of the {kind}.",
    "What color do you think the {kind} is?",
)
COLOR_OF_GROUP = (
    "What color are the {kinds}?",
    "what colours are the {kinds}",
    "Tell me the colors of the {kinds}.",
    "Which colors do the {kinds} have?",
)
COLOR_CHECK = (
    "Is the {kind} {color}?",
    "is that {kind} {color}",
    "The {kind} is {color}, right?",
    "Would you say the {kind} is {color}?",
    "Do I see it right that the {kind} is {color}?",
)
COLOR_CHOICE = (
    "Is the {kind} {color} or {other_color}?",
    "is it {a_color_kind} or {a_other_color} one?",
    "{color} or {other_color}, what's the {kind}?",
)

POSITION = (
    "Where is the {kind}?",
    "where's the {kind}",
    "Where in the picture is the {kind}?",
    "Where can I find the {kind}?",
    "Which side is the {kind} on?",
    "On which side of the image is the {kind}?",
    "What part of the picture is the {kind} in?",
    "Tell me where the {kind} is.",
    "Can you tell me where the {kind} is?",
    "What's the position of the {kind}?",
    "The {kind} is where?",
    "I'm looking for the {kind}. Where is it?",
    "Left, middle or right: where's the {kind}?",
    "Is the {kind} on the left, in the middle, or on the right?",
    "is the {kind} left right or center",
    "Do you see where the {kind} is?",
    "Where do you see the {kind}?",
    "Where should I look for the {kind}?",
    "position of the {kind}?",
    "In what part of the photo do you see the {kind}?",
    "Could you point out where the {kind} is?",
    "Where exactly is the {kind} in this scene?",
    "Which part of the image has the {kind} in it?",
    "Do you know where the {kind} is?",
    "whereabouts in the image is the {kind}",
    "Please say where the {kind} is located.",
    "Where would I find that {kind}, left or right or in the center?",
)
POSITION_CHECK = (
    "Is the {kind} {on_side}?",
    "is the {kind} {on_side} of the picture",
    "So the {kind} is {on_side}?",
    "The {kind} is {on_side}, isn't it?",
    "Can you check if the {kind} is {on_side}?",
)
POSITION_CHOICE = (
    "Is the {kind} {on_side} or {on_other_side}?",
    "is that {kind} {on_side} or rather {on_other_side}",
)

DISTANCE = (
    "Is the {kind} near or far?",
    "Is the {kind} close or far away?",
    "is the {kind} in front or far away",
    "Is the {kind} in the foreground or in the background?",
    "Is the {kind} close to us or far off?",
    "How far away is the {kind}?",
    "How far is the {kind}?",
    "how close is the {kind}",
    "Does the {kind} look close or far?",
    "Would you say the {kind} is near or far away?",
    "The {kind}: near or far?",
    "Near or far, where's the {kind}?",
    "Tell me if the {kind} is close or far away.",
    "Is the {kind} up front or way in the back?",
    "Is that {kind} nearby or in the distance?",
    "How distant is the {kind}?",
    "What's the distance to the {kind}, near or far?",
    "Is the {kind} far from the camera or close to it?",
    "can you tell if the {kind} is near or far?",
    "Is the {kind} at the front or at the back?",
    "Do we see the {kind} up close or from far away?",
    "Which is it: is the {kind} close by or far away?",
)
NEAR_CHECK = (
    "Is the {kind} close?",
    "Is the {kind} close to the camera?",
    "is the {kind} near us",
    "Is the {kind} in the foreground?",
    "The {kind} is pretty close, right?",
)
FAR_CHECK = (
    "Is the {kind} far away?",
    "Is the {kind} in the background?",
    "is the {kind} far from us",
    "Is that {kind} a long way off?",
    "The {kind} is quite far away, isn't it?",
)

# Presence and absence share these: the question does not tell whether the thing is there.
IS_THERE = (
    "Is there {a_kind}?",
    "Is there {a_kind} in this picture?",
    "is there any {kind} in the image",
    "Are there any {kinds}?",
    "are there any {kinds} here?",
    "Can you see {a_kind}?",
    "Do you see {a_kind}?",
    "do you see any {kinds}",
    "Does the picture show {a_kind}?",
    "Does this image have {a_kind} in it?",
    "Does the photo contain {a_kind}?",
    "Is {a_kind} visible?",
    "Any {kinds}?",
    "any {kinds} in there?",
    "Is there {a_kind} anywhere?",
    "There's {a_kind} in the picture, right?",
    "Have we got {a_kind} here?",
    "Can you spot {a_kind}?",
    "Can you find {a_kind} in this scene?",
    "Tell me if there is {a_kind}.",
    "Is there maybe {a_kind} in the photo?",
    "Do any {kinds} appear in the image?",
    "I'm looking for {a_kind}, is there one?",
    "Is one of the things here {a_kind}?",
    "do we have {a_kind} in the pic",
    "Would I find {a_kind} in this picture?",
    "Could you check whether there's {a_kind}?",
    "So is there {a_kind} or not?",
    "Are {kinds} shown in this image?",
)
IS_ANYBODY_THERE = (
    "Is anyone in the picture?",
    "is there anybody here",
    "Do you see any person?",
    "Is there somebody in the photo?",
)
IS_COLORED_THERE = (
    "Is there {a_color_kind}?",
    "can you see {a_color_kind}",
    "Do you see {a_color_kind} anywhere?",
    "Does the image show {a_color_kind}?",
)

COUNT = (
    "How many {kinds} are there?",
    "how many {kinds}",
    "How many {kinds} can you see?",
    "How many {kinds} do you see in the picture?",
    "How many {kinds} are in this image?",
    "What's the number of {kinds}?",
    "Count the {kinds}.",
    "Can you count the {kinds} for me?",
    "number of {kinds}?",
    "How many {kinds} does the photo show?",
    "Tell me how many {kinds} there are.",
    "The picture shows how many {kinds}?",
    "How many {kinds} have we got here?",
    "I'd like to know how many {kinds} there are.",
    "Do you know how many {kinds} are in the scene?",
    "How many {kinds} did you find?",
    "please count all the {kinds}",
    "What is the total number of {kinds} in this picture?",
    "Just how many {kinds} are there in the photo?",
    "How many {kinds} would you say there are?",
    "{kinds}, how many?",
    "How many of the things are {kinds}?",
)
COUNT_ALL = (
    "How many things are there?",
    "how many things can you see in total",
    "How many objects are in the picture?",
    "Count the objects in this image, please.",
    "What's the total number of things here?",
    "How many different objects do you see?",
)
COUNT_CHECK = (
    "Is there more than one {kind}?",
    "do you see more than one {kind}",
    "Is there more than a single {kind} here?",
    "Are there at least two {kinds}?",
)

PLACE = (
    "Where was this picture taken?",
    "where is this",
    "Where are we?",
    "What kind of place is this?",
    "What place does the picture show?",
    "Where does this scene take place?",
    "What's the setting?",
    "What is the location of this photo?",
    "Which place is this?",
    "where was the photo shot?",
    "Can you tell where this is?",
    "Where do you think this was taken?",
    "What sort of place are we looking at?",
    "Tell me where this picture was taken.",
    "What's the location?",
    "Is this a park, a beach, a street or somewhere in the snow?",
    "What kind of scenery is this?",
    "Where is all of this happening?",
    "In what kind of place was this image made?",
    "Where could this be?",
    "What does the place look like? Is it a park, a beach, a street, or snow?",
    "Do you recognize the kind of place?",
)
PLACE_CHECK = (
    "Is this {in_place}?",
    "are we {in_place}",
    "Was this picture taken {in_place}?",
    "Does this look like it is {in_place}?",
    "This is {in_place}, right?",
)
PLACE_CHOICE = (
    "Is this {in_place} or {in_other_place}?",
    "Was the photo taken {in_place} or {in_other_place}?",
    "are we {in_place} or {in_other_place}",
)

WEATHER = (
    "What's the weather like?",
    "how's the weather",
    "What is the weather in this picture?",
    "What kind of weather is it?",
    "How is the weather here?",
    "Tell me about the weather.",
    "What's the weather doing?",
    "weather?",
    "Can you describe the weather?",
    "What sort of weather do we have in this photo?",
    "Is it sunny, rainy, cloudy, or night?",
    "What does the sky look like?",
    "How does the sky look?",
    "What was the weather like when this was taken?",
    "Do you see sun, rain, clouds or stars in the sky?",
    "Which weather does the image show?",
    "Please tell me what the weather is like.",
    "What are the weather conditions?",
    "what about the weather?",
    "Do you know what the weather was like?",
    "Is it sunny or raining or cloudy or dark?",
)
DAY_OR_NIGHT = (
    "Is it day or night?",
    "is it daytime or nighttime",
    "What time of day is it?",
    "Was this taken during the day or at night?",
    "Is this at night or in the daytime?",
)
# Questions that are answered with yes for exactly one weather.
WEATHER_CHECK = {
    "sunny": (
        "Is it sunny?",
        "is the sun shining",
        "Can you see the sun?",
        "Is it a sunny day?",
    ),
    "rainy": (
        "Is it raining?",
        "is there rain",
        "Does it rain in this picture?",
        "Is this a rainy day?",
    ),
    "night": (
        "Is it night?",
        "is it dark outside",
        "Was this taken at night?",
        "Is it nighttime here?",
    ),
}

WHAT_SIDE = (
    "What's {on_side}?",
    "what is {on_side}",
    "What do you see {on_side}?",
    "What can be seen {on_side} of the picture?",
    "Which thing is {on_side}?",
    "What's that {on_side}?",
    "What is the thing {on_side}?",
    "Tell me what's {on_side}.",
    "Can you tell what is {on_side} of the image?",
    "What object is {on_side}?",
    "{on_side}, what is there?",
    "Who or what is {on_side}?",
)
WHAT_DISTANCE = (
    "What is {at_distance}?",
    "what's {at_distance}",
    "What do you see {at_distance}?",
    "Which thing is {at_distance}?",
    "Tell me what is {at_distance}.",
    "What's the object {at_distance}?",
    "What can you make out {at_distance}?",
)
WHAT_COLOR = (
    "What is {color}?",
    "what's the {color} thing",
    "Which thing is {color}?",
    "What is the {color} object?",
    "Which of the things is {color}?",
    "What's that {color} thing?",
)
WHAT_ELSE = (
    "What else is there besides the {kind}?",
    "Apart from the {kind}, what's in the picture?",
    "what else can you see other than the {kind}",
    "There's {a_kind}. What else do you see?",
    "Besides the {kind}, what does the image show?",
)

SIDE_CHECK = (
    "Is the {kind} to the {direction} of the {other}?",
    "is the {kind} {direction} of the {other}",
    "Is the {kind} further {direction} than the {other}?",
    "Can you find the {kind} on the {direction} of the {other}?",
    "The {kind} is {direction} of the {other}, right?",
    "Would you say that the {kind} is to the {direction} of the {other}?",
)
SIDE_CHOICE = (
    "Is the {kind} left or right of the {other}?",
    "Is the {kind} to the left or to the right of the {other}?",
    "on which side of the {other} is the {kind}, left or right?",
    "The {kind}: left or right of the {other}?",
    "Do I find the {kind} left or right of the {other}?",
)
SIDE_WHICH = (
    "Which is further to the {direction}, the {kind} or the {other}?",
    "what's more on the {direction}, the {kind} or the {other}",
    "Which one is further {direction}: {kind} or {other}?",
    "The {kind} or the {other}: which is on the {direction} of the other one?",
)
NEARER_CHECK = (
    "Is the {kind} closer than the {other}?",
    "is the {kind} nearer than the {other}",
    "Is the {kind} in front of the {other}?",
    "Does the {kind} look closer to us than the {other}?",
)
NEARER_WHICH = (
    "Which is closer, the {kind} or the {other}?",
    "what's nearer, the {kind} or the {other}",
    "Which one is closer to the camera, the {kind} or the {other}?",
    "What's closer to us: the {kind} or the {other}?",
    "Is the {kind} closer or the {other}?",
    "The {kind} or the {other}, which is nearer?",
)
FARTHER_WHICH = (
    "Which is farther away, the {kind} or the {other}?",
    "what's further away, the {kind} or the {other}",
    "Which of the two is more distant, the {kind} or the {other}?",
    "The {kind} or the {other}, which is further back?",
)

# In follow-ups "it" is the thing that the user asked about before.
IT_COLOR = (
    "What color is it?",
    "what colour is it",
    "And what color is it?",
    "what color",
    "Which color does it have?",
    "And its color?",
    "ok and what colour's that one?",
    "What color is that one?",
)
IT_POSITION = (
    "Where is it?",
    "where can I find it",
    "And where is it?",
    "which side?",
    "Which side is it on?",
    "where's that one?",
    "Where in the picture is it?",
    "and where?",
    "Is it on the left, in the middle or on the right?",
)
IT_DISTANCE = (
    "Is it near or far?",
    "is it close or far away",
    "And is it close to us or far away?",
    "How far away is it?",
    "Is it in the foreground or in the background?",
    "near or far?",
)
AND_THING = (
    "And the {other}?",
    "what about the {other}?",
    "same question for the {other}",
    "How about the {other}?",
    "And what about the {other}?",
    "ok, and the {other}?",
)
AND_PRESENCE = (
    "What about {a_kind}?",
    "and {a_kind}?",
    "How about {a_kind}?",
    "Then is there {a_kind} at least?",
)
OTHER_ONE = (
    "And the other one?",
    "what about the other one",
    "How about the other?",
)
WHY = (
    "Why?",
    "why so?",
    "Why do you think so?",
    "How can you tell?",
    "how do you know?",
    "What makes you think that?",
    "And why is that?",
    "How did you figure that out?",
)
WEATHER_THERE = (
    "And what's the weather like there?",
    "how's the weather there",
    "And the weather?",
    "What about the weather?",
)
PLACE_THERE = (
    "And where was it taken?",
    "where is that?",
    "And what kind of place is it?",
    "What about the place?",
)

# Questions that the image cannot answer, or that are not about the image.
OUTSIDE = (
    "Who are you?",
    "what's your name",
    "What can you do?",
    "Who made you?",
    "Are you a human?",
    "How are you today?",
    "What is the capital of France?",
    "What's two plus two?",
    "Who took this picture?",
    "When was this photo taken?",
    "What year is it?",
    "Which country is this?",
    "Can you tell me a joke?",
    "Who is the president of the United States?",
    "What camera was used for this?",
    "write me a poem about love",
    "What happened before this picture was taken?",
    "What's the temperature in degrees?",
    "How much does this cost?",
    "can you help me with my homework?",
    "What is the meaning of life?",
    "Do you like music?",
    "What language is spoken here?",
    "How old are you?",
    "What's the name of this town?",
)
OUTSIDE_ANIMAL = (
    "What is the {kind}'s name?",
    "what's the {kind} called",
    "How old is the {kind}?",
    "Is the {kind} hungry?",
    "Who does the {kind} belong to?",
)
OUTSIDE_PERSON = (
    "What is the person's name?",
    "who is that person",
    "What is the person thinking about?",
    "What does the person do for a living?",
)
OUTSIDE_OWNED = (
    "Who owns the {kind}?",
    "How much did the {kind} cost?",
    "how old is the {kind}",
)

# Words for the values that a question names.
ON_SIDE = {
    "left": ("on the left", "on the left side", "on the left-hand side"),
    "middle": ("in the middle", "in the center", "in the centre"),
    "right": ("on the right", "on the right side", "on the right-hand side"),
}
AT_DISTANCE = {
    "near": ("in front", "in the foreground", "close to us", "close to the camera"),
    "far": ("far away", "in the background", "in the distance", "far from us"),
}
IN_PLACE = {
    "park": ("in a park", "in the park"),
    "beach": ("at the beach", "on a beach"),
    "street": ("on a street", "on the street", "on a road"),
    "snow": ("in the snow",),
}
