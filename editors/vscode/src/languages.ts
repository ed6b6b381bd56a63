// Which documents are ours. Knows no server.

import * as vscode from 'vscode';
import { extraLanguages } from './settings';

/** Languages with a grammar in the server, though not each of them starts it: a look at JSON need not. Others are treated
 * as plain text, and only when the user adds them. */
export const LANGUAGES = [
  'python',
  'cython',
  'javascript',
  'javascriptreact',
  'typescript',
  'typescriptreact',
  'go',
  'rust',
  'java',
  'c',
  'cpp',
  'cuda-cpp',
  'objective-cpp',
  'csharp',
  'php',
  'ruby',
  'lua',
  'luau',
  'shellscript',
  'css',
  'html',
  'json',
  'jsonc',
  'toml',
  'yaml',
  'dockercompose',
  'github-actions-workflow',
] as const;

const SCHEMES = ['file', 'untitled', 'vscode-notebook-cell'] as const;

export function selector(): { scheme: string; language: string }[] {
  const languages = new Set<string>([...LANGUAGES, ...extraLanguages()]);
  return SCHEMES.flatMap((scheme) => [...languages].map((language) => ({ scheme, language })));
}

export function isOurs(document: vscode.TextDocument): boolean {
  return vscode.languages.match(selector(), document) > 0;
}
