import { createRoot } from "react-dom/client";
import { App } from "./App";
import { startTheme } from "./shell/theme";
import "./style/colours.css";
import "./style/base.css";
import "./style/controls.css";
import "./style/shell.css";
import "./style/write.css";
import "./style/library.css";
import "./style/song.css";
import "./style/player.css";

startTheme();
const root = document.getElementById("studio");
if (root !== null) createRoot(root).render(<App />);
