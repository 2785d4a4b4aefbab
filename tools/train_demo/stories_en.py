"""English story schemata: each function returns one short story as plain text."""

import re

from grammar import Scene
from lexicon_en import ANIMALS, BOYS, GIRLS, LISTS, PETS, PLACES, THINGS

PRONOUNS = {"girl": ("she", "her", "her", "herself"), "boy": ("he", "him", "his", "himself")}


def home_with_preposition(home):
    if home.startswith(("the top", "the edge")):
        return "at " + home
    if home.startswith(("a wide leaf", "the bank", "a quiet beach", "an island", "a rocky hill")):
        return "on " + home
    return "in " + home


def bind_person(scene, prefix, species=None, taken=()):
    """Binds a child or an animal with a name: {hero}, {hehero}... or, for prefix '', {he}."""
    random_source = scene.random
    gender = "girl" if random_source.random() < 0.5 else "boy"
    while True:
        if species:
            name = scene.pick(PETS)
        else:
            name = scene.pick(GIRLS if gender == "girl" else BOYS)
        if name not in taken:
            break
    subject, obj, possessive, reflexive = PRONOUNS[gender]
    mark = prefix
    scene.bound.update({
        mark + "hero": name, mark + "he": subject, mark + "him": obj, mark + "his": possessive,
        mark + "himself": reflexive, mark + "kind": species or gender,
    })
    if species:
        adjectives, home, food, moves = ANIMALS[species]
        scene.bound[mark + "adj"] = scene.pick(adjectives.split(", "))
        scene.bound[mark + "home"] = home
        scene.bound[mark + "inhome"] = home_with_preposition(home)
        scene.bound[mark + "eats"] = food
        scene.bound[mark + "ran"] = scene.pick(moves.split(", "))
    else:
        scene.bound[mark + "adj"] = scene.pick(LISTS["kindness"])
        scene.bound[mark + "home"] = scene.say(
            "a% [small|red|white|tall|old|narrow] house [near|behind|opposite|not far from] the {~house_near}")
        scene.bound[mark + "inhome"] = "in " + scene.bound[mark + "home"]
        scene.bound[mark + "eats"] = scene.pick(LISTS["food"])
        scene.bound[mark + "ran"] = scene.pick(("ran", "walked", "hurried", "rushed"))
    return name


LISTS["age"] = ["four", "five", "six", "seven", "eight", "nine", "ten", "eleven"]
LISTS["cake"] = ["a honey cake", "an apple pie", "a big cake", "a chocolate cake", "a cherry tart", "a plum cake", "a cake"]
LISTS["house_near"] = ["park", "school", "station", "market", "river", "library", "church", "bakery", "old mill", "bridge"]


def bind_thing(scene, prefix="", kind=None):
    noun = kind or scene.pick(list(THINGS))
    adjectives, purpose, found = THINGS[noun]
    scene.bound[prefix + "noun"] = noun
    scene.bound[prefix + "thing"] = f"{scene.pick(adjectives.split(', '))} {noun}"
    scene.bound[prefix + "purpose"] = purpose
    scene.bound[prefix + "found"] = found


def bind_place(scene, prefix="", kind=None):
    place = kind or scene.pick(list(PLACES))
    preposition, sights, spots = PLACES[place]
    spot_list = spots.split(", ")
    first, second = scene.random.sample(spot_list, 2)
    scene.bound[prefix + "place"] = place
    scene.bound[prefix + "inplace"] = f"{preposition} the {place}"
    scene.bound[prefix + "spot"] = first
    scene.bound[prefix + "otherspot"] = second
    one, two = scene.random.sample(sights.split(", "), 2)
    scene.bound[prefix + "sight"] = one
    scene.bound[prefix + "othersight"] = two


def new_scene(random_source, species=None, place=None, thing=None, animals=None):
    scene = Scene(random_source, LISTS)
    if animals is None:
        animals = species is not None or scene.chance(0.4)
    kinds = list(ANIMALS)
    first_species = species or (scene.pick(kinds) if animals else None)
    name = bind_person(scene, "", first_species)
    second_species = None
    if animals:
        second_species = scene.pick([kind for kind in kinds if kind != first_species])
    bind_person(scene, "f", second_species, taken=(name,))
    bind_thing(scene, kind=thing)
    bind_place(scene, kind=place)
    bind_place(scene, "o", scene.pick([other for other in PLACES if other != scene.bound["place"]]))
    scene.animals = animals
    scene.bound["elder"] = scene.pick(("mother", "father", "grandmother", "grandfather", "aunt", "uncle"))
    scene.bound["she"] = "she" if scene.bound["elder"] in ("mother", "grandmother", "aunt") else "he"
    scene.bound["her"] = "her" if scene.bound["she"] == "she" else "his"
    scene.bound["herobj"] = "her" if scene.bound["she"] == "she" else "him"
    return scene


def introduction(scene):
    if scene.animals:
        return (
            "[Once upon a time|Once|Long ago|A long time ago] there was a% {adj} {kind} [called|named] {hero}. {He} lived {inhome}.",
            "{hero} was a% {adj} {kind} who lived {inhome}. [{His} favourite food was {eats}.|{He} ate {eats} nearly every day.|Everyone {inplace} knew {him}.|]",
            "{Inhome} lived a% {adj} {kind}. {His} name was {hero}[.|, and {he} loved {eats}.|, and {he} was never bored.]",
            "There was once a% {adj} {kind} called {hero} who was [very|rather|always] {~kindness}. [Nothing made {him} happier than {eats}.|The other animals [liked|admired|trusted] {him}.|{He} had lived {inhome} for {~number} years.]",
            "This is the story of {hero}, a% {adj} {kind}. {He} came from {home}.",
        )
    return (
        "{hero} was a% {adj} {kind} who loved {~hobby}. [{He} lived {inhome}.|{He} was {~age} years old.|]",
        "[Once there was|There was once] a% {kind} [called|named] {hero}. {He} was [very |always |]{adj}, and {he} [liked|loved|enjoyed] {~hobby}[ and {~hobby}|].",
        "{hero} lived {inhome} with {his} {~relative} and a% {~animalkind} called {~pet}.",
        "{Inhome} lived a% {kind} [called|named] {hero}. [Everyone said that {he} was {adj}.|{He} often thought about {~subject}.|{His} best day of the week was {~weekday}.]",
        "{hero} was {~age} years old. {He} lived {inhome} and liked [{~fruit}|{~food}|{~drink}] more than anything.",
    )


LISTS["animalkind"] = ["cat", "dog", "rabbit", "hen", "goat", "mouse", "duck", "turtle"]


def opening(scene):
    return (
        "{~when}, {hero} went to the {place}.",
        "{~when}, {hero} [{ran}|went|set out] to the {place} with {his} {thing}.",
        "{~when}, {he} was {inplace}. {~skything}.",
        "{~when}, {~skything_lower}. {hero} wanted to go to the {place}.",
        "{~when}, {hero} and {his} {~relative} [went|took a% {~vehicle}] to the {place}.",
    )


LISTS["skything_lower"] = [entry[0].lower() + entry[1:] for entry in LISTS["skything"]]


def filler(scene):
    """A beat of detail that any story can hold; about half of the time there is none."""
    if scene.chance(0.45):
        return None
    return (
        "[There|On the way|Along the road], {he} saw {sight}[ and {othersight}|].",
        "A% {~looks} {~colour} {~bird} sat {~spotwhere}.",
        "{He} [heard|could hear] {~sound}[ and {~sound}|].",
        "{~skything}[, and {he} felt {~good}|, but {he} did not mind|].",
        "A% {~colour} {~insect} [flew past|landed on {his} nose|rested on one of the {~flower}].",
        "The {~flower} smelled [sweet|wonderful|of {~season}], and the {~tree} was full of {~bird}s.",
        "A {~job} with a% {~colour} {~clothes_one} [waved|smiled|nodded] at {him}.",
        "{He} stopped for a moment and ate [some {~fruit}|some {~food}|a few {~fruit}].",
        "{He} counted {~number} {~bird}s [{~spotwhere}|and {~number} {~flower}].",
        "{He} thought about {~hobby} and smiled.",
        "In {his} bag {he} had [some {~fruit}|a% {~looks} {~dish}|{~number} {~fruit} and a% {~looks} {~clothes_one}].",
        "Somewhere a {~job} was [singing|whistling|working|calling].",
    )


LISTS["clothes_one"] = ["coat", "dress", "shirt", "jacket", "jumper", "cap", "skirt", "cloak", "hat", "scarf", "bag"]


def ending(scene):
    return (
        "[From that day on|After that day|Since then], {hero} [always remembered|never forgot|often said] that {~lesson}.",
        "{hero} went home, ate {~food} and [slept well|fell asleep with a smile|told {his} {~relative} everything].",
        "That night {he} lay in bed and thought: {~lesson_cap}.",
        "It had been a% [good|long|wonderful|strange|busy|lovely] day, and {hero} felt {~good}.",
        "{hero} and {fhero} [stayed friends for ever|laughed all the way home|promised to meet again on {~weekday}|shared {~food} under the {~tree}].",
        "\"[What a day|That was fun|I will remember this|I am so {~good}]!\" said {hero}. And [so it was|that was the end of it|everyone agreed].",
        "When the [moon rose|stars came out|sun went down], {hero} was [home again|fast asleep|tired but {~good}].",
        "",
    )


LISTS["lesson_cap"] = [entry[0].upper() + entry[1:] for entry in LISTS["lesson"]]


def lost_object(scene):
    return [
        introduction, opening, filler,
        ("{He} had a% {thing}, and {he} took it everywhere. [But|Then|Suddenly] the {noun} was gone!",
         "{He} put {his} hand in {his} bag. The {thing} was not there!",
         "There {he} noticed that {his} {thing} was missing. {He} felt {~bad}.",
         "\"Where is my {noun}?\" {he} [cried|asked|said]. The {thing} had been a gift from {his} {elder}."),
        ("{He} looked {spot}, but [it was not there|there was only a% {~looks} {~dish}|found nothing but leaves].",
         "First {he} searched {spot}. [Nothing.|There was nothing.|All {he} found was a% {~colour} {~button_like}.]",
         "\"Perhaps it is {spot},\" {he} thought. But it was not."),
        filler,
        ("Then {he} met {fhero}. \"Have you seen a% {thing}?\" asked {hero}. \"[No, but I will help you|I am not sure|Let us look together|Maybe],\" said {fhero}.",
         "{fhero} came by. \"Why do you look so {~bad}?\" {fhe} asked. \"I have lost my {noun},\" said {hero}. \"[Do not worry|Do not cry|Come], we will find it.\"",
         "{He} asked {a_helper}. \"[I saw something {otherspot}|Try looking {otherspot}|It may be {otherspot}].\""
         .replace("|Was it not {otherspot} this morning", "|It may be {otherspot}")),
        ("They searched for [an hour|a long time|half the day]. At last they looked {otherspot}, and there was the {noun}!",
         "[They did not give up.|They looked high and low.] There, {otherspot}, lay the {thing}!",
         "And [indeed|really|sure enough], the {thing} was {otherspot}. [Somebody had left it there.|A% {~bird} had carried it there.|It was a little dusty, but not broken.]"),
        ("\"Thank you!\" said {hero}. {He} was so {~good} that {he} [danced|sang a song|gave {fhero} some {~fruit}|laughed out loud].",
         "{hero} held the {noun} tightly. \"I will take better care of it,\" {he} [said|promised].",
         "{He} thanked everyone and put the {noun} safely in {his} bag."),
        ending,
    ]


LISTS["button_like"] = ["button", "feather", "stone", "leaf", "sock", "ribbon", "glove", "nail", "bottle"]


def friendship(scene):
    return [
        introduction,
        ("{He} had [no friends|nobody to play with] {inplace}, and {he} often felt {~bad}.",
         "But {he} was new {inplace} and did not know anyone.",
         "There was one thing {he} wished for: a friend."),
        opening, filler,
        ("There {he} [met|saw|found] a% {fadj} {fkind} [called|whose name was] {fhero}. {Fhe} was [playing {~game} alone|sitting {spot}|looking at a% {~insect}|eating {~fruit}].",
         "A% {fkind} was sitting {spot}. {Fhis} name was {fhero}, and {fhe} looked {~bad} too."),
        ("\"Hello,\" said {hero}. \"[May I sit here|What are you doing|Do you like {~hobby}|Would you like to play {~game}]?\"",
         "{hero} took a deep breath. \"[Hi|Hello|Good {~daytime}], my name is {hero}. What is yours?\""),
        ("\"[Yes, please|I would love to|Of course|Why not]!\" {fhero} [answered|said] with a smile.",
         "{fhero} looked up. \"[I was hoping that someone would ask|Nobody has ever asked me that|Sit down], \" {fhe} {~spoke_line}.".replace(", \" ", ",\" "),
         "At first {fhero} was too shy to speak. Then {fhe} [nodded|smiled|held out {fhis} hand]."),
        ("They played {~game} until {~evening_like}. {hero} was good at {~hobby}, and {fhero} was good at {~hobby}.",
         "They shared {~food} and talked about {~subject}. [Then they played {~game}.|Neither of them noticed the time.]",
         "{fhero} showed {him} {a_sight}. {hero} showed {fhim} {his} {thing}. Soon they were laughing."),
        filler,
        ("\"Will you come again [tomorrow|on {~weekday}|next week]?\" asked {fhero}. \"[Yes|I promise|Of course]!\" said {hero}.",
         "When it was time to go, {hero} gave {fhero} the {thing}. \"This is for you,\" {he} said.", ""),
        ending,
    ]


LISTS["spoke_line"] = ["said", "answered", "replied", "whispered"]
LISTS["evening_like"] = ["the sun went down", "it grew dark", "the bell rang", "dinner was ready", "the stars came out", "it began to rain"]


def cooking(scene):
    scene.bound["meal"] = scene.pick(LISTS["food"])
    return [
        introduction,
        ("{~when}, {hero} wanted to make {meal} for {his} {elder}.",
         "{~when}, {his} {elder} was [ill|tired|very busy]. \"I will cook today,\" said {hero}. {He} decided to make {meal}."),
        ("{He} put [some {~vegetable}|a cup of flour|{~number} {~fruit}|a little salt] into a% {~size} {~dish} and stirred {~slow_way}.",
         "First {he} washed the {~vegetable}. Then {he} cut the {~vegetable} and [put them in a% {~dish}|looked for a% {~size} {~dish}].",
         "In the kitchen {he} found {~number} {~fruit}, some {~vegetable} and a% {~looks} {~dish}. But there was no [salt|butter|sugar|flour|milk]."),
        filler,
        ("[Oh no!|Then something went wrong.|But cooking is not easy.] [The milk boiled over|The {~dish} fell on the floor|The oven was too hot|There was far too much pepper in it|Smoke filled the room].",
         "{fhero} knocked at the door. \"[What smells so good|May I help you|What are you making]?\" {fhe} asked.",
         "It smelled [wonderful|strange|of honey|a little burnt], and {hero} felt {~mixed}."),
        ("\"[Let us try again|We can mend this|Do not give up|We only need more time],\" said {fhero}. So they [started again|washed everything|worked side by side].",
         "{fhero} brought some {~vegetable} and a% {~dish} of {~drink}. Together they [finished|saved] the meal.",
         "{He} tried again, this time more {~slow_way}. [After an hour|At {~evening_time}] it was ready."),
        ("{His} {elder} took a spoonful. \"[Delicious|Wonderful|This is the best {meal} in the world]!\" {she} said.",
         "{His} {elder} came in and saw the table. There was {meal}, and there was {~drink} too. {She} [hugged {him}|could not believe {her} eyes|smiled from ear to ear].",
         "They all sat down and ate {meal}. [Nothing was left.|Even the {~animalkind} got a little.|{He} asked for more twice.]"),
        ending,
    ]


LISTS["slow_way"] = ["slowly", "carefully", "gently", "patiently", "quickly", "quietly"]
LISTS["mixed"] = LISTS["good"] + LISTS["bad"]
LISTS["evening_time"] = ["five o'clock", "six o'clock", "seven o'clock", "noon", "last"]


def market_day(scene):
    first, second = scene.draw("fruit", 1)[0], scene.draw("vegetable", 1)[0]
    scene.bound.update(first=first, second=second)
    return [
        introduction,
        ("{~when}, {his} {elder} gave {him} {~number} coins. \"Please buy some {first} and some {second},\" {she} said.",
         "{~when}, {hero} went to the market with a% {~size} basket. {He} needed {first} and {second}."),
        ("The market was [full of people|loud and bright|busy]. There were {~fruit}, {~flower}, {~vegetable} and a man who sold {~looks} {~dish}s.",
         "\"Fresh {~fruit}! Sweet {~fruit}!\" [cried|called|shouted] a {~job}."),
        filler,
        ("\"How much are the {first}?\" asked {hero}. \"{~Numcap} coins,\" said the [woman|man|{~job}].",
         "{He} found the {second} at once, but where were the {first}? {He} [walked up and down|asked a {~job}|looked at every stall].",
         "At the first stall the {first} were too [small|green|old|expensive]. At the second they were just right."),
        ("Then {he} saw a% {thing}. {He} wanted it very much, but {he} did not have enough money for everything. [{He} thought for a long time.|{He} remembered the {second}.]",
         "On the way {he} met {fhero}, who had [lost {fhis} money|dropped {fhis} eggs|nothing to eat]. {hero} gave {fhim} half of the {first}.",
         "Suddenly {his} basket broke, and the {first} rolled across the street. {fhero} helped {him} to pick them up."),
        ("In the end {he} bought {first} and {second}, and {he} had [one coin|two coins|nothing] left.",
         "{He} came home with {first} and {second}. \"Well done,\" said {his} {elder}. {She} [made {~food}|gave {him} {~drink}|kissed {him} on the head]."),
        ending,
    ]


LISTS["Numcap"] = [number.capitalize() for number in LISTS["number"]]


def journey(scene):
    scene.bound["ride"] = scene.pick(LISTS["vehicle"])
    return [
        introduction,
        ("{He} had never [seen|visited] the {oplace}, and {he} dreamed of it every night.",
         "{~when}, a letter came from {his} {elder}. \"Come and visit me! I live by the {oplace} now,\" it said.",
         "{He} had heard that there was a% {thing} hidden in the {oplace}.".replace("in the {oplace}", "{oinplace}")),
        ("So {he} packed some {~fruit}, a% {~looks} {~clothes_one} and {his} {thing}, and [set off|left home early|took the {ride}].",
         "{~when_start}, {hero} [took the {ride}|started to walk|set out with {fhero}]. The way was [long|not easy|longer than {he} had thought]."),
        ("{He} passed {~number} {~tree_plural} and a% {~looks} {~building}. {He} saw {sight}.",
         "Near the {place} {he} rested {spot} and drank some {~drink}. {He} saw {sight}[ and {othersight}|].",
         "The road went past the {place} and over a% {~size} bridge."),
        filler,
        ("Then the road split in two. [Left or right?|Which way was right?] {hero} asked a {~job}. \"[Left at the {~tree}|Right at the {~building}|Straight on, and then left at the {~building}],\" said the [old |young |]{~job}.".replace("[old |young |]{~job}", "[old man|woman|stranger]"),
         "In the {~daytime} it began to [rain|snow|get foggy]. {hero} [hid under a% {~tree}|found a% {~looks} {~building}|went on {~slow_way}] and waited.",
         "{He} met {fhero}, a% {fadj} {fkind}, who [was going the same way|had lost {fhis} way|knew the road well]. They [walked|went on|travelled] together."),
        filler,
        ("At last {he} [reached|saw|came to] the {oplace}. There {he} saw {osight}! \"[It is even better than in my dreams|So this is it|I have made it],\" {he} {~spoke_line}.",
         "After {~number} hours {he} arrived. There {he} saw {osight}. How beautiful!",
         "When {he} came to the {oplace}, {his} {elder} was [already waiting|standing {ospot}]. \"Welcome!\" {she} said. [They had {~food} and {~drink}.|{She} had baked {~cake}.]"),
        ending,
    ]


LISTS["when_start"] = ["The next morning", "Early the next day", "On {~weekday} morning", "Before the sun was up"]
LISTS["tree_plural"] = ["oaks", "pines", "willows", "birches", "maples", "elms", "houses", "bridges", "fields", "hills"]
LISTS["building"] = ["mill", "barn", "church", "hut", "tower", "inn", "bakery", "school", "well", "gate", "stable"]


def weather_story(scene):
    scene.bound["bad"] = scene.pick(("storm", "snow", "rain", "fog", "wind", "heat"))
    return [
        introduction,
        ("{~when}, {hero} looked out of the window. There was nothing but {bad}.".replace("but {bad}", "but grey sky"),
         "{~when}, {hero} wanted to play {~game} {inplace}, but then the {bad} came."),
        ("The {bad} [did not stop for {~number} days|grew worse and worse|made everything quiet|surprised everyone {inplace}].",
         "\"[I have never seen such weather|This {bad} will last all week|Stay inside today],\" said {his} {elder}."),
        filler,
        ("{He} felt {~bad}. [What could {he} do now?|There was nothing to do.] So {he} [drew {sight}|read a book about {~subject}|built a% {~building} out of boxes|made {~food} with {his} {elder}].",
         "Then {he} thought of {fhero}, who lived all alone {inplace}. \"{Fhe} must be cold,\" {he} thought, and took a warm blanket and some {~food}.",
         "{He} put on a% {~colour} {~clothes_one} and went out anyway. {Spot}, {he} found {fhero}, who was wet and {~bad}."),
        ("\"[Come in|Come with me|You can stay with us]!\" said {hero}. They sat by the fire and drank {~drink}.",
         "They [played {~game}|told each other stories about {~subject}|sang songs|ate {~food}] and forgot the {bad}.",),
        ("In the {~daytime} the {bad} was over. [The sun came out|The sky was blue again|Everything sparkled], and they [ran outside|saw {sight}|heard {~sound}].",
         "At last the weather changed. A% rainbow stood over the {place}. \"[Look|How lovely|See]!\" said {fhero}.".replace("A% rainbow", "A rainbow"),),
        ending,
    ]


def school_day(scene):
    scene.bound["topic"] = scene.pick(LISTS["subject"])
    return [
        introduction,
        ("{~when}, {his} teacher, [Mr|Mrs|Miss] {~surname}, said: \"Today we will learn about {topic}.\"",
         "It was {~weekday}, and there was a lesson about {topic}. {hero} felt {~mixed}."),
        ("{hero} [did not understand|loved {topic}|found it hard|could hardly wait]. {He} [looked out of the window|wrote everything down|raised {his} hand|bit {his} {pencil_like}]."
         .replace("{pencil_like}", "pencil"),
         "\"Who can tell me something about {topic}?\" asked the teacher. [Nobody answered.|It was very quiet.|{hero} raised {his} hand.]"),
        filler,
        ("{fhero} sat next to {him}. \"[I do not understand this|Can you help me|It is too hard for me],\" {fhe} whispered. {hero} [showed {fhim} how to do it|drew a% {~size} picture|explained it again].",
         "In the break they played {~game} [behind the school|in the yard|near the gate]. {fhero} [fell and hurt {fhis} knee|won {~number} times|shared {fhis} {~fruit}].",
         "Then {hero} made a mistake, and [someone laughed|{his} face turned red]. \"[That is not funny|Everyone makes mistakes|Try once more],\" said {fhero}."),
        ("The teacher smiled. \"[Very good|Well done|That is right], {hero}! {~lesson_cap}.\"",
         "At the end of the lesson {he} knew a lot about {topic}. [It was not so hard after all.|{He} could not stop talking about it.]",
         "After school {he} told {his} {elder} about {topic}. {She} [listened|laughed|asked many questions] and [gave {him} some {~drink}|said that {she} was proud]."),
        ending,
    ]


LISTS["surname"] = ["Brown", "Green", "Hill", "Wood", "Baker", "Field", "Stone", "Lake", "Miller", "Winter", "Moss", "Reed"]


def mystery(scene):
    return [
        introduction,
        ("{~when}, something strange happened {inplace}. Every {~daytime} [some {~food}|a% {~looks} {~dish}|a few {~fruit}] disappeared.",
         "{~when}, {hero} heard {~sound} in the night. In the morning there were small footprints {spot}.",
         "{~when}, {hero} found a% {thing} {spot}. Nobody knew whose it was."),
        ("\"[Who could it be|What is going on|This is a mystery],\" {he} thought. {He} [asked a {~job}|took a lantern|wrote down everything {he} saw|hid behind a% {~tree}].".replace("[Who could it be|What is going on|This is a mystery],\"", "[This is a mystery|I must find out more|Somebody must know],\""),
         "\"It was not me,\" said {fhero}. \"But I saw someone {otherspot} on {~weekday}.\""),
        filler,
        ("{hero} waited {otherspot}. [It grew dark.|An hour passed.|The moon rose.] Then {he} heard {~sound}.",
         "{He} followed the tracks past the {~building} and the {~tree}. They ended {otherspot}.",
         "There was {~number_clue} clue: a% {~colour} {~button_like} {otherspot}."),
        ("And who came out? It was a% {~size_animal} {~animalkind}, [hungry|cold|frightened] and all alone!",
         "It was only the {~job}'s {~animalkind}! It had [taken everything for its babies|looked for a warm place|been lost for {~number} days].",
         "It was {fhero}! \"[I wanted to surprise you|I am sorry|I was hungry],\" {fhe} said [and blushed|in a small voice]."),
        ("So the mystery was solved. {hero} [gave it some {~drink_animal}|laughed|told everyone {inplace}] and [was {~good}|went home].",
         "\"Now I understand,\" said {hero}. [From then on {he} always left some {~food} {otherspot}.|They had {~food} together.]"),
        ending,
    ]


LISTS["number_clue"] = ["one", "only one", "another", "one more"]
LISTS["size_animal"] = ["small", "tiny", "thin", "young", "little", "wet"]
LISTS["drink_animal"] = ["milk", "water", "bread", "food"]


def apology(scene):
    return [
        introduction,
        ("{~when}, {hero} and {fhero} were playing {~game} {inplace}. {hero} [broke {fhis} {thing}|said something unkind|did not want to share {his} {thing}|cheated].",
         "{~when}, {hero} borrowed a% {thing} from {fhero}. But {he} [lost it {spot}|dropped it|forgot it {inplace}]."),
        ("{fhero} was {~bad}. {Fhe} [went home without a word|began to cry|did not speak to {him} for {~number} days].",
         "\"[You are not my friend any more|How could you|Leave me alone]!\" {fhero} cried."),
        filler,
        ("At home {hero} could not eat {his} {~food_plain}. \"What is wrong?\" asked {his} {elder}. {He} told {herobj} everything. \"[Then say that you are sorry|You know what to do|{~lesson_cap}],\" {she} said.",
         "{hero} felt {~bad}. {He} lay awake and [listened to the {~weather_noise}|thought about {fhero}|could not sleep]."),
        ("The next {~daytime} {he} took [some {~fruit}|a% {~gift}|{~food}] and went to {fhero}. \"I am sorry,\" {he} said. \"[I was wrong|It was my fault|I will make it good again].\"",
         "So {he} made a% {~gift} for {fhero} and wrote a% letter: \"Please forgive me.\"".replace("a% letter", "a letter")),
        ("{fhero} [smiled|thought about it|was quiet for a moment]. \"[I forgive you|I am sorry too|Let us be friends again],\" {fhe} said.",
         "{fhero} hugged {him}, and they [played {~game}|shared the {~food}|went to the {oplace} together].".replace("the {~food}", "some {~fruit}")),
        ending,
    ]


LISTS["food_plain"] = ["dinner", "supper", "soup", "breakfast", "cake"]
LISTS["weather_noise"] = ["rain", "wind", "clock", "owls", "storm"]


def birthday(scene):
    return [
        introduction,
        ("{~when}, it was {his} birthday. {He} was going to be {~age} years old.",
         "{his_cap} birthday was in {~month}. [{He} counted the days.|This year it was on a {~weekday}.]".replace("{his_cap}", "{His}"),
         "It was {fhero}'s birthday, and {hero} did not have a present yet. [{He} had only {~number} coins.|What could {he} give {fhim}?]"),
        ("{His} {elder} baked {~cake} with {~fruit} on top.", "In the {room_like} there were {~colour} and {~colour} balloons.".replace("{room_like}", "{~room}"),
         "{He} invited {fhero}, {~name} and a {~job} from the {place}."),
        filler,
        ("But in the {~daytime} nobody came. {hero} waited and waited. {He} felt {~bad}.",
         "There were {~number} presents: a% {~gift}, a% {~gift} and a% {thing}.".replace("{~number} presents", "three presents"),
         "{fhero} brought a% {~gift}. \"I [made|found|chose] it for you,\" {fhe} said."),
        ("Suddenly the door opened. \"Surprise!\" [everyone|they all] shouted. They had been hiding {~spot_house}.",
         "They played {~game}, ate {~food} and [danced|sang] until {~evening_like}.",
         "{hero} blew out the candles and made a wish. [{He} wished for a% {~gift}.|{He} did not tell anyone what it was.|{He} wished to see the {oplace}.]"),
        ("\"[This is my best birthday|Thank you, everyone|I have the best friends in the world]!\" said {hero}.", "The best present was not a% {~gift}. It was that everyone was there.", ""),
        ending,
    ]


LISTS["spot_house"] = ["behind the sofa", "in the kitchen", "under the table", "in the garden", "in the cellar", "behind the curtain"]


def garden_story(scene):
    scene.bound["plant"] = scene.pick(LISTS["flower"] + LISTS["vegetable"])
    return [
        introduction,
        ("In {~spring_like}, {hero} planted {plant} [behind the house|next to the {~tree}|in an old {~dish}|along the fence].",
         "{~when}, {his} {elder} gave {him} a bag of seeds. \"These will be {plant},\" {she} said."),
        ("{He} watered them every {~daytime}. [But nothing happened.|After {~number} days there was still nothing.|{He} even talked to them.]",
         "{He} waited. One day passed, then {~number} days. \"[Grow, please|Why does nothing happen|Hurry up],\" {he} whispered.".replace("Why does nothing happen|", "")),
        filler,
        ("Then [it did not rain for weeks|a% {~insect} ate the first leaves|{fhero}'s {~animalkind} dug them up|a cold wind came]. {hero} was {~bad}.",
         "\"{~lesson_cap},\" said {his} {elder}.",
         "{fhero} helped {him} to [carry water from the river|pull out the weeds|build a small fence]."),
        ("One {~daytime} {he} saw something green. The {plant} were growing!",
         "In {~summer_like} the garden was full of {plant}. {hero} was {~good}.",
         "After {~number} weeks the {plant} were [as tall as {hero}|ready|the most beautiful {inplace}]."),
        ("{He} gave some to {fhero}, some to the {~job} and some to {his} {elder}.", "Everyone came to see the {plant}. Even the {~job} said: \"[I have never seen better ones|How did you do that, {hero}|Well done]!\"".replace("How did you do that, {hero}|", ""), ""),
        ending,
    ]


LISTS["spring_like"] = ["March", "April", "May", "spring", "early spring"]
LISTS["summer_like"] = ["June", "July", "August", "summer", "September"]


def night_sky(scene):
    return [
        introduction,
        ("{~when_night}, {hero} could not sleep. {He} looked out of the window and saw [the moon|a thousand stars|a bright star|a strange light].",
         "{~when_night}, {his} {elder} took {him} to the {place}. \"Look up,\" {she} said."),
        ("\"How many stars are there?\" asked {hero}. \"[More than anyone can count|Nobody knows|As many as there is sand on the beach],\" said {his} {elder}.",
         "{He} began to count: one, two, three ... At {~number_big} {he} [stopped|fell asleep|started again].",
         "The stars looked like a% {~animalkind}, a% {~dish} and a% {~vehicle}."),
        filler,
        ("Suddenly a star fell. {hero} made a wish: {he} wished [for a% {~gift}|that {fhero} would come back|to see the {oplace}|that nobody would be {~bad}].",
         "An owl called from the {~tree}. {He} was [a little afraid|not afraid], [but {his} {elder} held {his} hand|for the moon was bright]."
         .replace("[a little afraid|not afraid], [but {his} {elder} held {his} hand|for the moon was bright]", "[a little afraid, but {his} {elder} held {his} hand|not afraid, for the moon was bright]"),
         "They [lay in the grass|sat {spot}] and drank {~drink}. [Neither of them spoke.|It was very quiet.|Far away they heard {~sound}.]"),
        ("\"The moon follows us,\" said {hero}. {His} {elder} laughed. \"It only looks like that.\"", "\"When I am big, I will fly there,\" said {hero}. \"[Take me with you|Then wave to me|I believe you],\" said {his} {elder}.", ""),
        ending,
    ]


LISTS["when_night"] = ["One night", "One clear night", "One night in {~month}", "Late in the evening", "On {~weekday} night", "In the middle of the night"]
LISTS["number_big"] = ["twenty", "thirty", "fifty", "a hundred", "forty-two", "ninety-nine", "sixty"]


def neighbour(scene):
    scene.bound["helped"] = scene.pick(LISTS["job"])
    return [
        introduction,
        ("Next door lived an old {helped} who [never smiled|lived alone|could not walk well any more|had {~number} {~animalkind}s].".replace("{~animalkind}s", "cats"),
         "{~when}, {he} saw that the {helped} was [carrying heavy bags|looking for something {spot}|sitting {spot}, {~bad} and tired]."),
        ("\"Can I help you?\" asked {hero}.", "{He} [knocked at the door|went over|waved]. \"Do you need help?\" {he} asked. \"[That would be kind|Oh yes|If you have time],\" said the {helped}."),
        ("So {hero} [swept the floor|carried the bags home|fed the cats|painted the fence {~colour}|brought in the washing|chopped the wood], and the {helped} made {~drink}.",
         "It took {~number} hours, and {fhero} came to help too. They [mended the roof|cleaned the windows|picked the {~fruit}|looked for the {helped}'s {thing}]."),
        filler,
        ("\"When I was young, I [sailed to a% far island|played the {~instrument} in the {oplace}|had a% {thing} like yours|was {~bad} too],\" the {helped} told them.".replace("a% far", "a far").replace("in the {oplace}", "every night"),
         "The {helped} told a story about {~subject}, and {hero} listened with open eyes."),
        ("\"How can I thank you?\" asked the {helped}. \"[It was nothing|Tell me another story|You need not],\" said {hero}.",
         "The next day a% {~gift} stood in front of {his} door. There was a note: \"For my {adj} neighbour.\"",
         "From then on they had {~food} together every {~weekday}."),
        ending,
    ]


LISTS["instrument"] = ["violin", "drum", "flute", "piano", "trumpet", "guitar"]


def race(scene):
    return [
        introduction,
        ("{~when}, there was a race {inplace}. The prize was a% {thing}.", "\"I am [faster|stronger|cleverer] than you,\" said {fhero} the {fkind}. \"Let us [race|see],\" said {hero}.".replace("{fhero} the {fkind}", "{fhero}")),
        ("{hero} practised every {~daytime}. [{He} ran to the {oplace} and back.|{His} {~relative} helped {him}.|{fhero} only laughed.]", "Everyone came to watch: a {~job}, a {~job} and {~number} children.", ),
        ("\"Ready? Go!\" {hero} ran past the {~building}, and {fhero} ran past the {~tree}.", "At first {fhero} was far ahead. {Fhe} [stopped to eat {~fruit}|looked back and laughed|ran too fast and got tired]."),
        filler,
        ("Then {fhero} fell. {hero} [stopped|turned round]. Was the {thing} more important than a friend? {He} helped {fhim} up.",
         "{hero} went on, step by step, and never stopped. In the end {he} won by [a nose|one step|a whole minute].",
         "They reached the end at the same time. Nobody could say who had won."),
        ("\"You are the real winner,\" [everyone said|said the {~job}].", "{hero} shared the prize with {fhero}. \"{~lesson_cap},\" {he} said.", ),
        ending,
    ]


def afraid(scene):
    scene.bound["fear"] = scene.pick(("the dark", "deep water", "thunder", "big dogs", "high places", "loud noises", "spiders", "being alone"))
    return [
        introduction,
        ("But there was one thing: {hero} was afraid of {fear}.", "{hero} was {adj}, but {he} was afraid of {fear}. [{He} told nobody.|Only {fhero} knew.]"),
        ("{~when}, {fhero} needed help {inplace}. {Fhe} was [stuck {spot}|lost|calling from {otherspot_bare}].".replace("|calling from {otherspot_bare}", "|too {~bad} to move"),
         "{~when}, {his} {thing} fell {spot}, and {he} had to get it back."),
        ("{His} heart beat fast. \"I cannot do it,\" {he} thought.", "{His} knees shook. {He} thought of {fear} and wanted to run away."),
        filler,
        ("Then {he} remembered what {his} {elder} had said: \"{~lesson_cap}.\" {He} took one step, and then {a_nother}.".replace("{a_nother}", "another"),
         "{He} closed {his} eyes and counted to {~number}. Then {he} [went on|{ran} on|did it]."),
        ("It was not so bad after all. [{fhero} was safe.|\"You did it!\" said {fhero}.|{He} even laughed.]", "\"You were so brave!\" said {fhero}. \"I was afraid all the time,\" said {hero}. \"[That is what brave means|Nobody noticed|So was I],\" {fhe} answered."),
        ending,
    ]


def invention(scene):
    return [
        introduction,
        ("{He} loved to build things. {~when}, {he} wanted to make a% {~vehicle} that could [fly|swim|sing|clean the {~room}|carry {~fruit}].", "{~when}, {hero} found a% {~looks} {~vehicle} {spot}. It was broken, but {he} had an idea."),
        ("{He} took {~number} wheels, a% {~dish}, a% {~clothes_one} and a% {thing}.", "{He} worked for {~number} days. [{His} {elder} brought {him} {~food}.|{He} forgot to eat.]"),
        ("The first time it [fell apart|made a terrible noise|did not move at all|ran into a% {~tree}].", "\"That will never work,\" said {fhero}. [But {hero} did not give up.|{hero} only smiled.]"),
        filler,
        ("So {he} tried again, and again, and on {~weekday} it worked!", "{fhero} had an idea: \"Why not use a% {~size} {~dish}?\" They tried it, and it worked!"),
        ("They rode it to the {place} and [saw {sight}|back|waved at everyone].", "Everyone {inplace} came to look. A {~job} gave {him} {~number} coins for it, but {hero} did not want to sell it."),
        ending,
    ]


def animal_rescue(scene):
    scene.bound["baby"] = scene.pick(("kitten", "puppy", "duckling", "baby bird", "lamb", "calf", "little hedgehog", "baby squirrel"))
    return [
        introduction, opening,
        ("{Spot}, {he} found a% {baby}. It was [all alone|cold and wet|hurt|crying softly].", "Then {he} heard {~sound} and a weak cry. {Otherspot} sat a% {baby}."),
        ("\"Do not be afraid,\" {he} [said|whispered]. {He} [wrapped it in {his} {~clothes_one}|gave it some water|picked it up {~slow_way}] and carried it home.", "\"Where is your mother?\" asked {hero}. The {baby} only looked at {him}."),
        filler,
        ("{His} {elder} knew what to do. They made a bed out of a% {~dish_bed} and gave it [milk|water|warm food].", "A {~job} told {him}: \"It needs warmth and quiet. Come back in {~number} days.\""),
        ("{hero} called it {~pet}. [It slept next to {his} bed.|It grew bigger every day.|It followed {him} everywhere.]", "After {~number} days the {baby} could [run|eat|play] again."),
        ("But one {~daytime} its mother came back. {hero} was {~bad} and {~good} at the same time. {He} let it go.", "\"May I keep it?\" asked {hero}. {His} {elder} [smiled and nodded.|thought for a while and said yes.|said: \"It must choose for itself.\"]", ""),
        ending,
    ]


LISTS["dish_bed"] = ["box", "basket", "hat", "old drawer", "blanket", "scarf"]

SCHEMATA = [lost_object, friendship, cooking, market_day, journey, weather_story, school_day, mystery, apology,
            birthday, garden_story, night_sky, neighbour, race, afraid, invention, animal_rescue]

TITLES = {
    lost_object: "The Lost {Nouncap}", friendship: "A New Friend", cooking: "{hero} in the Kitchen", market_day: "Market Day",
    journey: "The Long Way to the {Oplacecap}", weather_story: "Bad Weather", school_day: "A Day at School", mystery: "The Mystery",
    apology: "Sorry", birthday: "The Birthday", garden_story: "The Garden", night_sky: "Under the Stars", neighbour: "Next Door",
    race: "The Race", afraid: "{hero} Is Brave", invention: "The Great Idea", animal_rescue: "The Little Guest",
}


SPACES = re.compile(" {2,}")
INTRODUCED = ("called ", "named ", "name was ", "friend ", "met ", "saw ", "found ")


def introduce_friend(text, bound):
    """Says who the second figure is where its name comes up for the first time."""
    at = text.find(bound["fhero"])
    if at < 0 or text[:at].endswith(INTRODUCED) or text[:at].count('"') % 2:
        return text
    before = text[:at]
    starts_sentence = not before.rstrip(" \n") or before.rstrip(" \n")[-1] in '.!?"'
    # After a closing quote a verb such as `said` stands in between, so only a full stop inside it ends the sentence.
    whose = bound["his"] + " friend "
    return before + (whose.capitalize() if starts_sentence else whose) + text[at:]


def story(*arguments, **options):
    return story_and_facts(*arguments, **options)[0]


def story_and_facts(random_source, schema=None, species=None, place=None, thing=None, short=False, title=False,
                    adjective=None):
    scene = new_scene(random_source, species, place, thing)
    if schema is school_day or (species is None and schema in (market_day, birthday, school_day)):
        scene = new_scene(random_source, None, place, thing, animals=False)
    if schema is None:
        schema = scene.pick(SCHEMATA)
        if schema is school_day:
            scene = new_scene(random_source, species, place, thing, animals=species is not None)
    bound = scene.bound
    if adjective:
        bound["adj"] = adjective
    bound["a_helper"] = scene.say("a% [old |young |tall |busy |friendly |]{~job}")
    bound["a_sight"] = bound["sight"]
    bound["Nouncap"] = bound["noun"].capitalize()
    bound["Oplacecap"] = bound["oplace"].capitalize()
    beats = schema(scene)
    if short:
        beats = [beat for beat in beats if beat is not filler]
    paragraphs = 1 if short or scene.chance(0.6) else 2
    if paragraphs == 1:
        text = scene.tell(beats)
    else:
        middle = len(beats) // 2
        text = scene.tell(beats[:middle]) + "\n" + scene.tell(beats[middle:])
    text = introduce_friend(SPACES.sub(" ", text).strip(), bound)
    if title:
        text = scene.say(TITLES[schema]) + "\n" + text
    return text, bound
