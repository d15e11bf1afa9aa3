// The theme is known before the first paint: the one that was chosen here, else the system's.
'use strict'
{
  const root = document.documentElement
  const system = matchMedia('(prefers-color-scheme: dark)')
  const stored = () => { try { return localStorage.getItem('theme') } catch { return null } } // may be forbidden
  const dark = () => root.dataset.theme ? root.dataset.theme === 'dark' : system.matches
  const chosen = stored()
  if (chosen === 'dark' || chosen === 'light') root.dataset.theme = chosen
  addEventListener('DOMContentLoaded', () => {
    const button = document.getElementById('theme')
    const label = () => button.setAttribute('aria-label', `Switch to the ${dark() ? 'light' : 'dark'} theme`)
    button.addEventListener('click', () => {
      root.dataset.theme = dark() ? 'light' : 'dark'
      try { localStorage.setItem('theme', root.dataset.theme) } catch { /* then it is not remembered */ }
      label()
    })
    system.addEventListener('change', label)
    label()
  })
}
