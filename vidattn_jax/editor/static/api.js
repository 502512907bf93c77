// Requests to the server. A failure is an Error with a sentence for people.

export class Refused extends Error {
  constructor(status, body) {
    super(body.error || `The server answers ${status}.`);
    this.status = status;
    this.body = body;
  }
}

async function ask(path, options) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error('The server does not answer.');
  }
  if (answer.ok) return answer;
  throw new Refused(answer.status, await answer.json().catch(() => ({})));
}

const url = (name, query) => `/api/${name}?${new URLSearchParams(query)}`;

export const get = async (name, query = {}) =>
  (await ask(url(name, query))).json();

export const bytes = async (name, query) =>
  new Uint8Array(await (await ask(url(name, query))).arrayBuffer());

export const picture = async (name, query) =>
  (await ask(url(name, query))).blob();

async function send(method, name, body, headers = {}) {
  const answer = await ask(`/api/${name}`, {
    method, body: JSON.stringify(body), keepalive: true,
    headers: {'Content-Type': 'application/json', ...headers}});
  return answer.json();
}

export const post = (name, body) => send('POST', name, body);

export const put = (name, body, revision) =>
  send('PUT', name, body, {'If-Match': `"${revision}"`});
