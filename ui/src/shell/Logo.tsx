export function Logo() {
  return (
    <span className="logo">
      <svg viewBox="0 0 32 32" aria-hidden="true">
        <path d="M6 13v6M11 9v14M16 4.500v23M21 10v12M26 13.500v5" />
      </svg>
      <span>Khala</span>
    </span>
  );
}
