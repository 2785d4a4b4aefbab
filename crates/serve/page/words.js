// The texts of the page in English and Korean.

const ENGLISH = {
  newConversation: "New conversation",
  conversations: "Conversations",
  conversation: "Conversation",
  openList: "Show conversations",
  closeList: "Hide conversations",
  rename: "Rename {title}",
  newName: "Name of the conversation",
  remove: "Delete {title}",
  askDelete: "Delete “{title}”? This cannot be undone.",
  delete: "Delete",
  cancel: "Cancel",
  close: "Close",
  done: "Done",
  settings: "Settings",
  switchTheme: "Switch between light and dark",
  emptyTitle: "Ask something.",
  emptyText: "Conversations stay in this browser. Text files can be dropped on the page.",
  toEnd: "To the end",
  message: "Message",
  messageHint: "Write a message",
  rawHint: "Write the beginning of a text",
  files: "Files",
  attach: "Add text files",
  keys: "Enter sends · Shift+Enter starts a line",
  send: "Send",
  stop: "Stop",
  dropHere: "Drop text files here",
  you: "You",
  model: "Model",
  copy: "Copy",
  copied: "Copied",
  copyFailed: "The browser did not allow copying.",
  copyMessage: "Copy message",
  copyAnswer: "Copy answer",
  edit: "Edit message",
  editHint: "Later messages will be removed.",
  regenerate: "Answer again",
  reasoning: "Reasoning",
  text: "text",
  table: "Table",
  image: "image",
  removeFile: "Remove {name}",
  fileSize: "{name}: larger than 256 KiB. It was not added.",
  fileText: "{name}: not a text in UTF-8. It was not added.",
  fileRead: "{name}: the file cannot be read.",
  fileCount: "A message takes at most {count} files.",
  stopped: "Stopped.",
  length: "The answer reached its largest number of tokens.",
  finished: "Answer: {text}",
  reading: "reading the prompt",
  answering: "answering",
  speed: "{rate} tokens/s",
  speedOf: "{tokens} tokens, {rate} tokens/s",
  used: "{used} of {context} tokens",
  context: "context {context} tokens",
  prompt: "prompt {read} read, {cached} reused",
  weights: "weights {size}",
  weightsOf: "weights {size} ({whole} in 16 bits)",
  states: "states {size}",
  statesOf: "states {size} of {limit}",
  rawMode: "no chat template: raw completion",
  language: "Language",
  theme: "Theme",
  ofBrowser: "Automatic",
  ofSystem: "System",
  light: "Light",
  dark: "Dark",
  system: "System message",
  systemHint: "Instructions before each conversation",
  temperature: "Temperature",
  topP: "Top p",
  topK: "Top k",
  minP: "Min p",
  maxTokens: "Max. tokens",
  seed: "Seed",
  ofServer: "Default",
  noLimit: "No limit",
  random: "Random",
  key: "API key",
  keyHint: "Only if the server wants one",
  remember: "Remember the key after this tab is closed",
  reset: "Reset all",
  wrongValue: "{name}: {message}",
  noStore: "This browser keeps no conversations. They are lost when the page is closed.",
  needsKey: "The server needs a valid API key. Enter it in the settings.",
  unreachable: "The server cannot be reached.",
  broken: "The connection ended before the answer did.",
  unreadable: "The server sent an answer that cannot be read.",
  loading: "The server is not ready yet. Try again soon.",
  busy: "The server is busy. Try again soon.",
  timeout: "The answer took longer than the server allows.",
  tooLong:
    "The conversation has {tokens} tokens, and the model takes {context}. Begin a new conversation or shorten it.",
  status: "The server answered with status {status}.",
  refused: "{text}",
};

const KOREAN = {
  newConversation: "새 대화",
  conversations: "대화 목록",
  conversation: "대화",
  openList: "대화 목록 열기",
  closeList: "대화 목록 닫기",
  rename: "‘{title}’ 이름 바꾸기",
  newName: "대화 이름",
  remove: "‘{title}’ 삭제",
  askDelete: "‘{title}’ 대화를 삭제할까요? 되돌릴 수 없습니다.",
  delete: "삭제",
  cancel: "취소",
  close: "닫기",
  done: "완료",
  settings: "설정",
  switchTheme: "밝은 화면과 어두운 화면 전환",
  emptyTitle: "무엇이든 물어보세요.",
  emptyText: "대화는 이 브라우저에만 저장됩니다. 텍스트 파일을 끌어다 놓을 수 있습니다.",
  toEnd: "맨 아래로",
  message: "메시지",
  messageHint: "메시지를 입력하세요",
  rawHint: "이어 쓸 글의 앞부분을 입력하세요",
  files: "파일",
  attach: "텍스트 파일 추가",
  keys: "Enter로 보내기 · Shift+Enter로 줄 바꾸기",
  send: "보내기",
  stop: "중지",
  dropHere: "텍스트 파일을 여기에 놓으세요",
  you: "나",
  model: "모델",
  copy: "복사",
  copied: "복사됨",
  copyFailed: "브라우저가 복사를 허용하지 않았습니다.",
  copyMessage: "메시지 복사",
  copyAnswer: "답변 복사",
  edit: "메시지 수정",
  editHint: "이 메시지 뒤의 내용은 지워집니다.",
  regenerate: "다시 답변하기",
  reasoning: "생각 과정",
  text: "텍스트",
  table: "표",
  image: "이미지",
  removeFile: "{name} 빼기",
  fileSize: "{name}: 256 KiB보다 커서 추가하지 않았습니다.",
  fileText: "{name}: UTF-8 텍스트가 아니어서 추가하지 않았습니다.",
  fileRead: "{name}: 파일을 읽을 수 없습니다.",
  fileCount: "메시지 하나에 파일을 {count}개까지 넣을 수 있습니다.",
  stopped: "중지했습니다.",
  length: "답변이 최대 토큰 수에 이르렀습니다.",
  finished: "답변: {text}",
  reading: "프롬프트 읽는 중",
  answering: "답변하는 중",
  speed: "초당 {rate}토큰",
  speedOf: "{tokens}토큰, 초당 {rate}토큰",
  used: "컨텍스트 {context}토큰 중 {used} 사용",
  context: "컨텍스트 {context}토큰",
  prompt: "프롬프트 {read} 읽음, {cached} 재사용",
  weights: "가중치 {size}",
  weightsOf: "가중치 {size}(16비트라면 {whole})",
  states: "상태 {size}",
  statesOf: "상태 {size}(최대 {limit})",
  rawMode: "채팅 템플릿 없음: 글 이어 쓰기 방식",
  language: "언어",
  theme: "화면 테마",
  ofBrowser: "자동",
  ofSystem: "시스템 설정",
  light: "밝게",
  dark: "어둡게",
  system: "시스템 메시지",
  systemHint: "모든 대화 앞에 붙는 지시문",
  temperature: "온도(temperature)",
  topP: "Top p",
  topK: "Top k",
  minP: "Min p",
  maxTokens: "최대 토큰 수",
  seed: "시드",
  ofServer: "기본값",
  noLimit: "제한 없음",
  random: "무작위",
  key: "API 키",
  keyHint: "서버가 요구할 때만 입력",
  remember: "탭을 닫아도 키 기억하기",
  reset: "모두 초기화",
  wrongValue: "{name}: {message}",
  noStore: "이 브라우저에는 대화를 저장할 수 없습니다. 페이지를 닫으면 대화가 사라집니다.",
  needsKey: "올바른 API 키가 필요합니다. 설정에서 입력해 주세요.",
  unreachable: "서버에 연결할 수 없습니다.",
  broken: "답변이 끝나기 전에 연결이 끊어졌습니다.",
  unreadable: "서버가 보낸 답변을 읽을 수 없습니다.",
  loading: "서버가 아직 준비되지 않았습니다. 잠시 후 다시 시도해 주세요.",
  busy: "서버가 바쁩니다. 잠시 후 다시 시도해 주세요.",
  timeout: "서버가 정한 시간 안에 답변이 끝나지 않았습니다.",
  tooLong: "대화가 {tokens}토큰인데 모델은 {context}토큰까지 받습니다. 새 대화를 시작하거나 내용을 줄여 주세요.",
  status: "서버가 상태 코드 {status}로 응답했습니다.",
  refused: "{text}",
};

let language = "en";
let words = ENGLISH;

/** Chooses the language: `wanted`, or that of the browser. */
export function chooseLanguage(wanted) {
  const known = wanted || navigator.languages?.[0] || navigator.language || "en";
  language = /^ko\b/i.test(known) ? "ko" : "en";
  words = language === "ko" ? KOREAN : ENGLISH;
  document.documentElement.lang = language;
}

/** Returns a text, with `{name}` replaced by values. */
export function t(key, values = {}) {
  const text = words[key] ?? ENGLISH[key] ?? key;
  return text.replace(/\{(\w+)\}/g, (whole, name) => String(values[name] ?? whole));
}

/** Writes a number in the form of the language. */
export function number(value, digits = 0) {
  return new Intl.NumberFormat(language, { maximumFractionDigits: digits, minimumFractionDigits: digits }).format(
    value,
  );
}

/** Writes a size in MiB, or in a smaller or larger unit. */
export function size(bytes) {
  if (bytes < 2 ** 10) return `${number(bytes)}\u00a0B`;
  if (bytes < 2 ** 20) return `${number(bytes / 2 ** 10, bytes < 10 * 2 ** 10 ? 1 : 0)}\u00a0KiB`;
  if (bytes < 10 * 2 ** 30) return `${number(bytes / 2 ** 20)}\u00a0MiB`;
  return `${number(bytes / 2 ** 30, 1)}\u00a0GiB`;
}

/** Fills the texts of elements with `data-text`, `data-label` and `data-hint`. */
export function fill(root) {
  for (const node of root.querySelectorAll("[data-text]")) node.textContent = t(node.dataset.text);
  for (const node of root.querySelectorAll("[data-hint]")) node.placeholder = t(node.dataset.hint);
  for (const node of root.querySelectorAll("[data-label]")) {
    node.setAttribute("aria-label", t(node.dataset.label));
    if (node.localName === "button") node.title = t(node.dataset.label);
  }
}
