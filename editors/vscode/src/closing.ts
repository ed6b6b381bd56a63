// What the editor puts behind a bracket that is typed, for one that came with a proposal. Knows no language client.

import * as vscode from 'vscode';

/** Put the marks behind the cursor, which stands where a proposal ended that opens what they close. */
export async function closeBehind(marks: string): Promise<void> {
  const editor = vscode.window.activeTextEditor;
  if (editor?.selections.length !== 1 || !editor.selection.isEmpty) {
    return;
  }
  const { document, selection } = editor;
  const place = selection.active;
  const line = document.lineAt(place).text;
  const closes = vscode.workspace.getConfiguration('editor', document).get<string>('autoClosingBrackets');
  // the user may have typed on meanwhile
  const isThere = '([{'.includes(line.slice(0, place.character).trimEnd().slice(-1) || ' ');
  if (closes === 'never' || !isThere || line.slice(place.character).trim() !== '') {
    return;
  }
  // what is typed then is undone by itself
  const isDone = await editor.edit((edit) => edit.insert(place, marks), { undoStopBefore: false, undoStopAfter: true });
  if (isDone) {
    editor.selection = new vscode.Selection(place, place);
  }
}
