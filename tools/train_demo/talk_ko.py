"""Korean dialogues, lines of plain facts, and chat turns between a user and an assistant."""

import stories_ko
from grammar import Scene, with_particle
from lexicon_ko import ANIMALS, COLOURS_OF, COUNTING, FACTS, LISTS, NUMBERS, OPPOSITES, PLACES, THINGS


def copula(word):
    return with_particle(word, "예요")


def short_fact(scene):
    """(question without its question mark, answer without its full stop)."""
    choice = int(scene.random.random() * 8)
    if choice == 0:
        thing, colour = scene.pick(COLOURS_OF)
        topic = with_particle(thing, "은")
        return f"{topic} 무슨 색이에요", f"{topic} {copula(colour)}"
    if choice == 1:
        one, other = scene.pick(OPPOSITES)
        if scene.chance(0.5):
            one, other = other, one
        return f"'{one}'의 반대말은 뭐예요", f"'{one}'의 반대말은 '{other}'" + copula(other)[len(other):]
    if choice in (2, 3):
        names = LISTS["요일"] if choice == 2 else LISTS["달"]
        index = scene.random.randrange(len(names))
        following = names[(index + 1) % len(names)]
        what = "무슨 요일이에요" if choice == 2 else "몇 월이에요"
        return f"{names[index]} 다음은 {what}", f"{names[index]} 다음은 {copula(following)}"
    if choice == 4:
        first, second = scene.random.randint(1, 10), scene.random.randint(1, 10)
        if scene.chance(0.5):
            word, total = "더하기", first + second
        else:
            word, first = "빼기", first + second
            total = first - second
        task = f"{NUMBERS[first]} {word} {with_particle(NUMBERS[second], '은')}"
        return f"{task} 얼마예요", f"{task} {copula(NUMBERS[total])}"
    if choice == 5:
        species = scene.pick(list(ANIMALS))
        topic = with_particle(species, "은")
        return f"{topic} 무엇을 좋아해요", f"{topic} {with_particle(ANIMALS[species][2], '을')} 좋아해요"
    if choice == 6:
        end = scene.random.randint(3, 10)
        return f"{COUNTING[0]}부터 {COUNTING[end - 1]}까지 세어 줄래요", ", ".join(COUNTING[:end])
    return scene.pick(FACTS)


LISTS["방안자리"] = ["탁자 위", "의자 밑", "서랍 안", "문 뒤", "선반 위", "등잔 옆", "바구니 안", "창문 옆"]


def where_is(scene):
    """A small memory task: where several things are, and a question about one of them."""
    things = scene.random.sample(list(THINGS), scene.random.randint(2, 4))
    spots = scene.random.sample(LISTS["방안자리"], len(things))
    lines = [f"{with_particle(thing, '은')} {spot}에 있어요." for thing, spot in zip(things, spots)]
    asked = int(scene.random.random() * len(things))
    topic = with_particle(things[asked], "은")
    return scene.say("[{~방:을} 보세요.|여기는 {~방:예요}.|] ").lstrip() + " ".join(lines), f"{topic} 어디에 있어요?", f"{topic} {spots[asked]}에 있어요."


def fact_lines(random_source):
    scene = Scene(random_source, LISTS)
    lines = []
    for _ in range(scene.random.randint(4, 9)):
        if scene.chance(0.25):
            lines.append(" ".join(where_is(scene)))
        else:
            question, answer = short_fact(scene)
            lines.append(f"{question}? {answer}." if scene.chance(0.5) else answer + ".")
    return ("\n" if scene.chance(0.5) else " ").join(lines)


EXCHANGES = (
    ("{비:야} 어디 가?".replace("{비:야}", "{비야},"), "{장소}에 가. [같이 갈래|너도 올래]? [{~과일:을} 사야 해|{~식구:이} 기다리고 있어].", "[좋아, {~탈것:을} 타고 가자.|{~요일}까지는 시간이 있어.|그래, 가자.]"),
    ("가방에 뭐가 들었어?", "{~과일:와} {꾸민물건:이} 들었어.", "[나도 보여 줘.|무겁겠다.|나도 갖고 싶다.]"),
    ("오늘 하루 어땠어?", "[좋았어|좀 길었어|이상했어]. {풍경:을} 봤거든. {~색} {~새}도 {~새자리} 있었어.", "[정말?|나도 봤어.|멋지다!]"),
    ("내 {물건} 못 봤어?", "[{구석}에 있을걸|{구석:을} 찾아봐|{~요일}에 {구석}에서 봤어].", "[정말 여기 있네!|고마워!|거기는 벌써 찾아봤어.]"),
    ("저녁은 뭐 먹어?", "{~음식:와} {~음식:이} 있어.", "[마실 것도 있어?|배고프다!|{~과일}도 먹고 싶어.]", "[{~마실것:이} 있어.|손부터 씻어.|조금만 기다려.]"),
    ("왜 그래? 무슨 일 있어?", "[{물건:을} 잃어버렸어|{~식구:이} 보고 싶어|{~주제} 공부가 너무 어려워|{~날씨} 날이 싫어].", "[걱정하지 마|그 마음 알아|내가 도와줄게]. {~교훈}고 하잖아.".replace("{~교훈}고 하잖아.", "잘될 거야.")),
    ("너는 커서 뭐가 되고 싶어?", "{~직업:이} 되고 싶어. 너는?", "나는 {~직업:이} 될래. {~취미:을} 좋아하거든."),
    ("오늘은 {~날씨} 날이네.", "[응, {~옷:을} 챙겨|나는 이런 날이 좋아|그럼 {~방}에서 놀자].", "[좋은 생각이야.|{~놀이:을} 하자.|내일은 더 좋을 거야.]"),
    ("{~놀이:을} 하자!", "나는 {~놀이:을} 하고 싶은데.", "[그럼 둘 다 하자.|{~이름}한테도 물어보자.|그래, 좋아.]"),
    ("이 {물건:은} 누구 거야?", "{~직업} 거야. {구석}에 두고 갔어.", "[돌려주자.|찾아가 보자.]"),
    ("학교에서 뭘 배웠니?", "{~주제}에 대해 배웠어요. [어려웠어요|재미있었어요|이제 다 알아요].", "[더 이야기해 주렴.|참 기특하구나.]"),
    ("안녕하세요, {비} 씨.", "안녕하세요, {에이} 씨. [잘 지냈어요?|일찍 왔네요.|반가워요.]", "[네, 덕분에요.|조금 피곤해요.|저도 반가워요.]"),
    ("저기 봐, {풍경:이} 있어!", "[어디?|나도 보여!|참 예쁘다!]", "[저기 {구석}에.|{~나무} 옆에.|기분이 좋아져.]"),
)


def dialogue(random_source):
    scene = stories_ko.new_scene(random_source)
    first, second = scene.random.sample(LISTS["이름"], 2)
    lines = []
    for exchange in scene.random.sample(EXCHANGES, scene.random.randint(2, 4)):
        if scene.chance(0.3):
            first, second = second, first
        scene.bound.update({"에이": first, "비": second, "비야": with_particle(second, "아")})
        for number, line in enumerate(exchange):
            lines.append(f"{(first, second)[number % 2]}: {scene.say(line)}")
    text = "\n".join(lines)
    if scene.chance(0.3):
        text = scene.say("{에이:와} {비:이} {장소}에서 만났다. {~하늘}다.\n") + text
    return text


SYSTEM = ("너는 [친절한|다정한|상냥한] [이야기꾼|도우미]이야. [짧게 대답해 줘.|이야기를 좋아해.|]".replace("[이야기꾼|도우미]이야", "[이야기꾼이야|도우미야]"),
          "아이들에게 [짧은 |]이야기를 들려주세요.", "당신은 작은 도우미입니다. [쉬운 말로|친절하게|짧게] 대답하세요.", "모든 질문에 한 문장으로 대답해 주세요.")

TOPICS = {
    stories_ko.lost_object: "잃어버린 물건", stories_ko.friendship: "[친구|우정|새 친구]", stories_ko.cooking: "[요리|음식]", stories_ko.market_day: "시장",
    stories_ko.journey: "[여행|먼 길]", stories_ko.weather_story: "[궂은 날씨|날씨]", stories_ko.school_day: "학교", stories_ko.mystery: "[수수께끼|이상한 일]", stories_ko.apology: "[사과하는|화해하는 친구]".replace("사과하는|", ""),
    stories_ko.birthday: "생일", stories_ko.garden_story: "[정원|씨앗]", stories_ko.night_sky: "[별|밤하늘|달]", stories_ko.neighbour: "이웃", stories_ko.race: "달리기 시합",
    stories_ko.afraid: "용기", stories_ko.animal_rescue: "아기 동물",
}

ASK = ("{topic} 이야기를 [들려줘|해 줘|들려주세요|해 주세요|하나 해 줘].", "{topic}에 대한 [짧은 |]이야기를 [써 줘|들려줘|써 주세요|들려주세요].", "{topic} 이야기가 듣고 싶어[|요].", "{topic} 이야기를 [들려줄래|해 줄래|해 줄 수 있어]?")


def ask_for_story(scene):
    species = place = schema = adjective = None
    kind = scene.random.random()
    if kind < 0.45:
        species = scene.pick(list(ANIMALS))
        topic = species
        if scene.chance(0.6):
            adjective = scene.pick(ANIMALS[species][0].split(", "))
            topic = f"{adjective} {species}"
    elif kind < 0.55:
        place = scene.pick(list(PLACES))
        topic = place
        schema = scene.pick((stories_ko.lost_object, stories_ko.friendship, stories_ko.animal_rescue))
    else:
        schema = scene.pick(list(TOPICS))
        topic = scene.say(TOPICS[schema])
    question = scene.say(scene.pick(ASK).replace("{topic}", topic))
    text, facts = stories_ko.story_and_facts(scene.random, schema, species, place, short=scene.chance(0.7), style=scene.pick(("어요", "어요", "습니다")), adjective=adjective)
    if scene.chance(0.12):
        text = scene.say("[네, 좋아요!|물론이에요!|이야기를 들려줄게요.|네!] ") + text
    hero = facts["본명"]
    more = [("[고마워|고마워요|재미있었어]!", "[천만에요!|재미있었다니 기뻐요.|다음에 또 들려줄게요.]"),
            ("[주인공은 누구야|누구의 이야기야|주인공 이름이 뭐야]?", f"주인공은 {facts['꾸밈']} {facts['종류']} {copula(hero)}."),
            ("[무엇을 배울 수 있어|이 이야기의 교훈은 뭐야]?", "{~교훈}는 것을 배울 수 있어요.")]
    if facts["친주인공"] in text:
        more.append((f"{with_particle(facts['친주인공'], '은')} 누구야?", f"{with_particle(facts['친주인공'], '은')} {facts['주인공']}의 친구예요."))
    return question, text, more


SMALL_TALK = (
    ("안녕[|!|하세요|하세요!]", "안녕하세요! [무엇을 도와드릴까요?|무슨 이야기를 할까요?|이야기 하나 들려줄까요?|오늘 기분은 어때요?]"),
    ("[잘 지냈어|어떻게 지내|오늘 기분이 어때]?", "[잘 지내요.|아주 좋아요.|덕분에 즐거워요.] [당신은요?|무엇을 도와드릴까요?|오늘은 무슨 이야기를 할까요?]"),
    ("[이름이 뭐야|너는 누구야|누구세요]?", "[저는 이야기를 들려주는 작은 언어 모델이에요.|저는 작은 도우미예요. 이야기와 쉬운 질문을 좋아해요.|저는 시범용 모델이에요. 영어와 한국어로 짧은 이야기를 할 수 있어요.]"),
    ("무엇을 할 수 있어[|요]?", "[짧은 이야기를 하고, 수를 세고, 쉬운 질문에 대답할 수 있어요.|{~동물이름} 이야기나 {~주제} 이야기를 들려줄 수 있어요.|쉬운 질문에 대답하고 이야기를 지어낼 수 있어요.]"),
    ("오늘 [너무|조금|정말] [슬퍼|외로워|피곤해|속상해|걱정돼].", "[그랬군요.|힘들었겠어요.|마음이 아프네요.] [{~마실것:을} 마시면 좀 나아질 거예요.|이야기를 들려줄까요?|{~장소:을} 걸어 보면 어때요?|무슨 일이 있었어요?]"),
    ("오늘 [너무|정말] [기뻐|행복해|즐거워|신나].", "[정말 잘됐네요!|저도 기뻐요!|멋져요!] [무슨 일이 있었어요?|더 이야기해 주세요.|{~음식:을} 먹으며 축하해요.]"),
    ("[오늘|저녁에] 뭐 먹을까?", "{~음식:은} 어때요? [{~마실것:와} 잘 어울려요.|{~채소:와} {~채소:이} 있으면 돼요.|후식으로 {~과일:을} 먹어도 좋아요.]"),
    ("[오늘|{~요일}에|심심한데] 뭐 할까?", "[{~취미:을} 해 보세요.|{~장소}에 가 보세요.|친구와 {~놀이:을} 하면 어때요?]".replace("[{~취미:을} 해 보세요.", "[{~취미:은} 어때요?")),
    ("{~동물이름} 이름을 지어 줘.", "{~별명:은} 어때요?[| {~별명:나} {~별명}도 좋아요.]"),
    ("[고마워|고맙습니다|고마워요][.|!]", "[천만에요!|별말씀을요.|언제든지 불러 주세요.]"),
    ("[잘 자|안녕히 계세요|또 봐|잘 있어][.|!]", "[안녕히 주무세요.|또 만나요!|좋은 하루 보내세요.]"),
    ("[나는 지금 |오늘 ]{~장소}에 가.", "[재미있게 놀다 오세요!|좋겠어요!] [{~옷:을} 꼭 챙기세요.|{~새:을} 볼 수 있을 거예요.|{~과일:을} 가져가세요.]"),
    ("{~식구} 생일에 뭘 줄까?", "{~선물:은} 어때요? [직접 쓴 편지도 좋아요.|케이크를 구워도 좋아요.|]"),
    ("어떤 계절을 좋아해[|요]?", "{~계절:을} 좋아해요. [{~꽃:이} 예쁘거든요.|{~과일:이} 맛있거든요.|{~날씨} 날이 많거든요.]"),
)
LISTS["장소"] = list(PLACES)


def chat(random_source):
    """A list of (role, text)."""
    scene = Scene(random_source, LISTS)
    messages = []
    if scene.chance(0.2):
        messages.append(("system", scene.say(scene.pick(SYSTEM)).strip()))
    kind = scene.random.random()
    if kind < 0.12:
        messages += [(role, scene.say(text).strip()) for role, text in zip(("user", "assistant"), scene.pick(SMALL_TALK))]
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
