// Values of settings as they may really be: VS Code hands out whatever the file says, of any type.

import * as vscode from 'vscode';

const MAX_SNOOZE_MINUTES = 720;
const LOG_LEVELS = ['error', 'warning', 'info', 'debug'];
const LOG_LEVEL = 'info';

/** The strings of a list; of anything else none. */
export function strings(value: unknown): string[] {
  return Array.isArray(value) ? value.filter((one) => typeof one === 'string') : [];
}

/** An object by its names; of anything else an empty one. */
export function record<T>(value: unknown): Record<string, T> {
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Record<string, T>) : {};
}

export type Override = { enable?: boolean } & Record<string, unknown>;

/**
 * Our settings with what stands in blocks of languages (`"[python]"`), which the server does not know, as entries of
 * `languages`. What stands there itself wins. names: the settings that may stand in a block.
 */
export function withBlocks(settings: Record<string, unknown>, names: readonly string[], scope?: vscode.Uri): Record<string, unknown> {
  const here = vscode.workspace.getConfiguration('lacuna', scope);
  const blocks = names.flatMap((name) => (here.inspect(name)?.languageIds ?? []).map((languageId) => ({ name, languageId })));
  const languages = { ...record<Override>(settings.languages) };
  for (const { name, languageId } of blocks) {
    const value: unknown = vscode.workspace.getConfiguration('lacuna', { languageId, ...(scope && { uri: scope }) }).get(name);
    languages[languageId] = { [name]: value, ...languages[languageId] };
  }
  return blocks.length > 0 ? { ...settings, languages } : settings;
}

/** What the block of a document's language says of `lacuna.enable`, if anything. */
export function enabledByBlock(document: vscode.TextDocument): boolean | undefined {
  const settings = vscode.workspace.getConfiguration('lacuna', document);
  const isSaid = settings.inspect('enable')?.languageIds?.includes(document.languageId) ?? false;
  return isSaid ? settings.get<boolean>('enable') : undefined;
}

export function extraLanguages(): string[] {
  return strings(vscode.workspace.getConfiguration('lacuna.editor').get('extraLanguages'));
}

export function snoozeMinutes(): number {
  const value: unknown = vscode.workspace.getConfiguration('lacuna.editor').get('snoozeMinutes');
  return typeof value === 'number' && value >= 1 ? Math.min(value, MAX_SNOOZE_MINUTES) : 5;
}

/** A level that the server knows: with any other one it would not start. */
export function logLevel(): string {
  const value: unknown = vscode.workspace.getConfiguration('lacuna.server').get('logLevel');
  return LOG_LEVELS.find((one) => one === value) ?? LOG_LEVEL;
}
