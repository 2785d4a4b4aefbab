"""English dialogues, lines of plain facts, and chat turns between a user and an assistant."""

import stories_en
from grammar import Scene
from lexicon_en import ANIMALS, COLOURS_OF, FACTS, LISTS, NUMBERS, OPPOSITES, PLACES, THINGS


def arithmetic(scene):
    """(question, answer) of a sum or a difference of at most twenty."""
    first, second = scene.random.randint(1, 10), scene.random.randint(1, 10)
    if scene.chance(0.5):
        word, total = "plus", first + second
    else:
        word, first = "minus", first + second
        total = first - second
    return f"what is {NUMBERS[first]} {word} {NUMBERS[second]}", f"{NUMBERS[first].capitalize()} {word} {NUMBERS[second]} is {NUMBERS[total]}"


def short_fact(scene):
    """(question without its question mark, answer without its full stop)."""
    choice = int(scene.random.random() * 8)
    if choice == 0:
        thing, colour = scene.pick(COLOURS_OF)
        return f"What colour is {thing}", f"{thing.capitalize()} is {colour}"
    if choice == 1:
        one, other = scene.pick(OPPOSITES)
        if scene.chance(0.5):
            one, other = other, one
        return f"What is the opposite of {one}", f"The opposite of {one} is {other}"
    if choice == 2:
        days = LISTS["weekday"]
        index = scene.random.randrange(7)
        if scene.chance(0.5):
            return f"Which day comes after {days[index]}", f"{days[(index + 1) % 7]} comes after {days[index]}"
        return f"Which day comes before {days[index]}", f"{days[index - 1]} comes before {days[index]}"
    if choice == 3:
        months = LISTS["month"]
        index = scene.random.randrange(12)
        return f"Which month comes after {months[index]}", f"{months[(index + 1) % 12]} comes after {months[index]}"
    if choice == 4:
        question, answer = arithmetic(scene)
        return question.capitalize(), answer
    if choice == 5:
        species = scene.pick(list(ANIMALS))
        article = "an" if species[0] in "aeiou" else "a"
        return f"What does {article} {species} like to eat", f"{article.capitalize()} {species} likes to eat {ANIMALS[species][2]}"
    if choice == 6:
        start = scene.random.randint(1, 10)
        end = start + scene.random.randint(3, 8)
        return (f"Can you count from {NUMBERS[start]} to {NUMBERS[end]}",
                ", ".join(NUMBERS[start : end + 1]).capitalize())
    return scene.pick(FACTS)


def where_is(scene):
    """A small memory task: where several things are, and a question about one of them."""
    things = scene.random.sample(list(THINGS), scene.random.randint(2, 4))
    spots = scene.random.sample(LISTS["roomspot"], len(things))
    room = scene.pick(LISTS["room"])
    lines = [f"The {thing} is {spot}." for thing, spot in zip(things, spots)]
    asked = int(scene.random.random() * len(things))
    statement = scene.say(f"[In the {room}, there are {NUMBERS[len(things)]} things.|Look into the {room}.|This is the {room}.] ") + " ".join(lines)
    return statement, f"Where is the {things[asked]}?", f"The {things[asked]} is {spots[asked]}."


def fact_lines(random_source):
    scene = Scene(random_source, LISTS)
    lines = []
    for _ in range(scene.random.randint(4, 9)):
        if scene.chance(0.25):
            statement, question, answer = where_is(scene)
            lines.append(f"{statement} {question} {answer}")
        else:
            question, answer = short_fact(scene)
            lines.append(f"{question}? {answer}." if scene.chance(0.5) else answer + ".")
    return ("\n" if scene.chance(0.5) else " ").join(lines)


EXCHANGES = (
    ("[Where are you going|Where are you off to], {b}?", "To the {place}. [Do you want to come|Will you come with me|I have to buy {~fruit}].", "[I have time until {~weekday}|My {~relative} is waiting there too|Let us take the {~vehicle}]."),
    ("What is in your bag?", "[Some {~fruit}|A% {~looks} {~dish}|{~food_cap}] and a% {thing}.", "[May I see it?|That sounds heavy.|I would like some too.]"),
    ("How [was|did you like] your {~daytime}?", "[Good|Long|Strange]. I saw {sight} and a% {~colour} {~bird} {~spotwhere}.", "[Really?|I saw that too.|How lovely!]"),
    ("Have you seen my {noun}?", "[I think it is {spot}|No, but look {spot}|It was {spot} on {~weekday}].", "[You are right, here it is!|Thank you!|I have looked there already.]"),
    ("What are we having for dinner?", "[There is|We have] {~food} and {~food}.", "[And something to drink?|I am so hungry!|Can we have {~fruit} too?]", "[There is {~drink}.|Wash your hands first.|Soon.]"),
    ("You look {~bad}. What is wrong?", "[I lost my {noun}|I am afraid of the {~weather} weather|I miss my {~relative}|I do not understand {~subject}].", "[Do not worry|I know how that feels|I will help you]. {~lesson_cap}."),
    ("What do you want to be when you grow up?", "[A% {~job}|I want to be a% {~job}]. And you?", "A% {~job}, because I love {~hobby}."),
    ("It is very {~weather} today.", "[Yes, take your {~clothes_one}|I like it that way|Then let us stay in the {~room}].", "[Good idea.|We could play {~game}.|Tomorrow will be {~weather}.]"),
    ("Let us play {~game}!", "I would rather play {~game}.", "[Fine, first one and then the other.|Then let us ask {~name}.|All right.]"),
    ("Can you teach me {~hobby}?", "[Of course|With pleasure]. It takes time, but {~lesson}.", "[When can we start?|I will try.]", "[On {~weekday}.|Now!|After lunch.]"),
    ("Whose {noun} is this?", "It belongs to the {~job}. [He left it {spot}|She forgot it {inplace}].", "[We should bring it back.|Let us look for the {~job}.]"),
    ("What did you learn at school?", "Something about {~subject}. [It was hard|I loved it|I know all of it now].", "[Tell me more!|I am proud of you.]"),
    ("Good {~daytime}, {b}!", "Good {~daytime}, {a}! [How are you|You are early|Nice to see you].", "[I am {~good}, thank you.|A little {~bad}, to be honest.]"),
    ("Look, {sight}!", "[Where?|I see it!|Oh, how nice!]", "[Over there, {spot}.|Near the {~tree}.|It makes me {~good}.]"),
)

LISTS["food_cap"] = [entry[0].upper() + entry[1:] for entry in LISTS["food"]]


def dialogue(random_source):
    scene = stories_en.new_scene(random_source)
    first, second = scene.random.sample(LISTS["name"], 2)
    scene.bound.update(a=first, b=second)
    lines = []
    for exchange in scene.random.sample(EXCHANGES, scene.random.randint(2, 4)):
        if scene.chance(0.3):
            first, second = second, first
            scene.bound.update(a=first, b=second)
        for number, line in enumerate(exchange):
            lines.append(f"{(first, second)[number % 2]}: {scene.say(line)}")
    text = "\n".join(lines)
    if scene.chance(0.3):
        text = scene.say("{a} and {b} met {inplace}. {~skything}.\n") + text
    return text


SYSTEM = ("You are a [kind|friendly|helpful|patient] [storyteller|assistant|helper]. [Your answers are short.|You love stories.|]",
          "You tell [short |little |]stories to children.", "You are a small assistant. Answer [kindly|in simple words|shortly].",
          "Answer [questions|every question] in [one sentence|simple English].")

TOPICS = {
    stories_en.lost_object: "a lost {noun}", stories_en.friendship: "[friendship|making a friend|two friends]", stories_en.cooking: "[cooking|a meal|a kitchen]",
    stories_en.market_day: "[a market|a day at the market|shopping]", stories_en.journey: "a [long ]journey".replace("[long ]", "[long |]"),
    stories_en.weather_story: "bad weather", stories_en.school_day: "[school|a day at school|a lesson]", stories_en.mystery: "a mystery", stories_en.apology: "[saying sorry|two friends who had a quarrel]",
    stories_en.birthday: "a birthday", stories_en.garden_story: "[a garden|growing something]", stories_en.night_sky: "[the stars|the night sky|the moon]",
    stories_en.neighbour: "[an old neighbour|helping a neighbour]", stories_en.race: "a race", stories_en.afraid: "[being brave|courage]", stories_en.invention: "[an invention|building something]",
    stories_en.animal_rescue: "[a baby animal|helping a small animal]",
}

ASK = ("[Tell me|Can you tell me|Please tell me|Write|Please write|Make up|I would like to hear|Give me] a [short |little |nice |]story about {topic}",)


def ask_for_story(scene):
    """(question, answer, follow-up pairs) of a story request."""
    species = place = thing = schema = adjective = None
    kind = scene.random.random()
    if kind < 0.45:
        species = scene.pick(list(ANIMALS))
        topic = f"a% {species}"
        if scene.chance(0.6):
            adjective = scene.pick(ANIMALS[species][0].split(", "))
            topic = f"a% {adjective} {species}"
    elif kind < 0.55:
        place = scene.pick(list(PLACES))
        topic = f"[the {place}|a day {PLACES[place][0]} the {place}]"
        schema = scene.pick((stories_en.lost_object, stories_en.friendship, stories_en.animal_rescue))
    else:
        schema = scene.pick(list(TOPICS))
        if schema is stories_en.lost_object:
            thing = scene.pick(list(THINGS))
        topic = TOPICS[schema].replace("{noun}", thing or "")
    question = scene.say(scene.pick(ASK).replace("{topic}", topic))
    question += "?" if question.startswith("Can") else "."
    text, facts = stories_en.story_and_facts(scene.random, schema, species, place, thing, short=scene.chance(0.7), adjective=adjective)
    if scene.chance(0.12):
        text = scene.say("[Of course!|Gladly!|Here is a story.|Yes!] ") + text
    more = [("[Thank you|Thanks|That was nice]!", "[You are welcome!|I am glad you liked it.|With pleasure! Would you like another one?]"),
            ("[Who was the story about|What was the name of the hero|Who is the hero]?", f"[The story was about|The hero was] {facts['hero']}, a% {facts['adj']} {facts['kind']}."),
            ("[What can we learn from it|What does the story teach us]?", "[It teaches us that {~lesson}.|We can learn that {~lesson}.]")]
    if facts["fhero"] in text:
        more.append((f"Who is {facts['fhero']}?", f"{facts['fhero']} is {facts['hero']}'s friend."))
    return question, text, more


SMALL_TALK = (
    ("[Hello|Hi|Hello there|Good {t=~daytime}|Hey][!|.|]", "[Hello!|Hi!|Hello, nice to meet you!] [How can I help you today?|What would you like to talk about?|Would you like to hear a story?|How are you?]"),
    ("How are you[| today]?", "[I am fine, thank you.|Very well, thank you.|I feel {~good}.] [And you?|How are you?|What can I do for you?]"),
    ("[What is your name|Who are you|What are you]?", "[I am a small language model that tells stories.|I am a little assistant. I like stories and simple questions.|I am a demo model. I can tell short stories in English and Korean.]"),
    ("What can you do?", "I can [tell short stories, count and answer simple questions|tell you a story about {~animalkind}s, stars or {~subject}|answer simple questions and make up stories]."),
    ("I am [{~bad}|so {~bad}|a little {~bad}] today.", "[I am sorry to hear that.|That is hard.|I understand.] [{~lesson_cap}.|Maybe some {~drink} and a story will help.|Would you like to talk about it?|A walk in the {~place_en} may help.]"),
    ("I am [{~good}|very {~good}] today.", "[I am glad to hear that!|How nice!|Wonderful!] [What happened?|Tell me more.|Let us celebrate with {~food}.]"),
    ("What should I [cook|eat] [today|tonight|for dinner]?", "[How about|You could make|Why not try] {~food}? [It goes well with {~drink}.|You need some {~vegetable} and a% {~dish}.|Add some {~fruit} for dessert.]"),
    ("What should I do [today|on {w=~weekday}]?", "You could try {~hobby}[.|, or visit the {~place_en}.| or play {~game} with a friend.]"),
    ("What is a good name for a {p=~animalkind}?", "[How about|I would call it|You could call it] {~pet}[.|, or maybe {~pet}.]"),
    ("[Thank you|Thanks]!", "[You are welcome!|With pleasure!|Any time!]"),
    ("[Good night|Goodbye|Bye|See you]!", "[Good night! Sleep well.|Goodbye! Come back soon.|See you! Have a nice {~daytime}.]"),
    ("[I am going to the {~place_en}|I will visit the {~place_en}].", "[Have fun!|How nice!] [Do not forget your {~clothes_one}.|Maybe you will see a% {~bird} {~spotwhere}.|Take some {~fruit} with you.]"),
    ("What should I give my {r=~relative} for [a birthday|the birthday]?", "[How about|Maybe|Why not] a% {~gift}? [Or you could bake {~cake}.|A kind letter is a good present too.|]"),
    ("What [do you like|is your favourite season]?", "I like {~season}, because then [the {~flower} are in bloom|there are {~fruit}|the days are {~weather}]."),
)
LISTS["place_en"] = list(PLACES)


def chat(random_source):
    """A list of (role, text)."""
    scene = Scene(random_source, LISTS)
    messages = []
    if scene.chance(0.2):
        messages.append(("system", scene.say(scene.pick(SYSTEM)).strip()))
    kind = scene.random.random()
    if kind < 0.12:
        question, answer = (scene.say(part) for part in scene.pick(SMALL_TALK))
        messages += [("user", question), ("assistant", answer)]
        kind = scene.random.random()
    if kind < 0.55:
        question, answer, more = ask_for_story(scene)
        messages += [("user", question), ("assistant", answer)]
        if scene.chance(0.35):
            messages += [(role, scene.say(text)) for role, text in zip(("user", "assistant"), scene.pick(more))]
    elif kind < 0.8:
        for _ in range(scene.random.randint(1, 3)):
            question, answer = short_fact(scene)
            messages += [("user", question + "?"), ("assistant", answer + ".")]
    elif kind < 0.9:
        statement, question, answer = where_is(scene)
        messages += [("user", f"{statement} {question}"), ("assistant", answer)]
    else:
        for pair in scene.random.sample(SMALL_TALK, scene.random.randint(1, 3)):
            messages += [(role, scene.say(text).strip()) for role, text in zip(("user", "assistant"), pair)]
    return messages
